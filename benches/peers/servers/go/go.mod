module heirloom-bench-peer-servers

go 1.19
