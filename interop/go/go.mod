module packhorse.test/interop

go 1.26.0

require (
	github.com/gocraft/work v0.5.2-0.20200429214246-5959e69ad211
	github.com/gomodule/redigo v2.0.0+incompatible
	golang.org/x/sys v0.49.0
)

require github.com/robfig/cron/v3 v3.0.1 // indirect
