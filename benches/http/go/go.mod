module heirloom-bench-http

go 1.20
