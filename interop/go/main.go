// Command gowork is the Go half of packhorse's interoperability tests and
// benchmarks: the real github.com/gocraft/work behind a small command line.
// tests/gowork.py and the benchmarks start it; nothing else does.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/gomodule/redigo/redis"
)

// stdout is the real standard output. The library logs errors with fmt.Printf,
// which would fall between the JSON lines, so main points os.Stdout at stderr
// and everything that callers parse goes through this variable.
var stdout = os.Stdout

var commands = map[string]func(args []string) error{
	"enqueue": runEnqueue,
	"flood":   runFlood,
	"work":    runWork,
	"client":  runClient,
	"bench":   runBench,
}

func main() {
	os.Stdout = os.Stderr
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gowork enqueue|flood|work|client|bench [flags] (-h after a command lists its flags)")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "gowork %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// target holds the two flags that every command has.
type target struct {
	addr string
	ns   string
}

func newFlags(name string) (*flag.FlagSet, *target) {
	t := &target{}
	fs := flag.NewFlagSet("gowork "+name, flag.ExitOnError)
	fs.StringVar(&t.addr, "redis", "", "host:port of the server (required)")
	fs.StringVar(&t.ns, "ns", "", "namespace; empty means no prefix at all, as in the library")
	return fs, t
}

// connect returns a pool that has answered one PING, so that a wrong address
// fails at once and not as a stream of log lines. There is no default address:
// a test that forgot the flag must not reach whatever listens on 6379.
func (t *target) connect(size int) (*redis.Pool, error) {
	if t.addr == "" {
		return nil, fmt.Errorf("-redis host:port is required")
	}
	pool := &redis.Pool{
		MaxActive:   size,
		MaxIdle:     size,
		IdleTimeout: 240 * time.Second,
		Wait:        true,
		Dial: func() (redis.Conn, error) {
			return redis.Dial("tcp", t.addr, redis.DialConnectTimeout(5*time.Second))
		},
	}
	conn := pool.Get()
	defer conn.Close()
	if _, err := conn.Do("PING"); err != nil {
		return nil, err
	}
	return pool, nil
}

// workerConns sizes the pool for a WorkerPool: one connection a worker, one
// more for each worker's observer (they all tick in the same second), and room
// for the heartbeat, the requeuers and the reaper, which holds two.
func workerConns(concurrency int) int {
	return 2*concurrency + 20
}
