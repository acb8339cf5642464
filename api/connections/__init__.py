"""A gunicorn gthread worker hardened against slow clients: everything that reaches into gunicorn is in this folder.

For deployments without a buffering reverse proxy in front. There, a client that sends or reads a few bytes a minute
(slowloris) would hold a thread for as long as it likes: gunicorn's gthread worker limits neither how long a request's
head may take, nor how slowly its body may arrive or its answer be read, and it closes no idle connection to take a new
one. `slow_client_socket` gives each connection deadlines and a minimum rate, `gthread_worker` evicts idle and slow
clients when threads or connections run out, `client_connection` tells when a waiting client has disconnected, and
`hooks` holds what the server sets up besides. The import contract "gunicorn stays with the connections" keeps the
folder the only one.

It can be deleted once gunicorn's gthread worker has read deadlines per connection, a minimum body rate and idle
eviction of its own, or once a buffering proxy such as nginx is mandatory in front of the API.
"""
