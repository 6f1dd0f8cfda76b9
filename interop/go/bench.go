package main

import (
	crand "crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gocraft/work"
	"github.com/gomodule/redigo/redis"
)

func runBench(args []string) error {
	fs, t := newFlags("bench")
	mode := fs.String("mode", "work", "work or enqueue")
	count := fs.Int64("count", 100000, "jobs")
	nameCount := fs.Int("names", 5, "job names: bench0, bench1, ...")
	concurrency := fs.Int("concurrency", 20, "workers (mode work)")
	prefill := fs.Bool("prefill", true, "fill the queues first; =false if the caller has (mode work)")
	fs.Parse(args)
	if *count < 1 || *nameCount < 1 || *concurrency < 1 {
		return fmt.Errorf("-count, -names and -concurrency must be at least 1")
	}
	pool, err := t.connect(workerConns(*concurrency))
	if err != nil {
		return err
	}
	defer pool.Close()
	names := make([]string, *nameCount)
	for i := range names {
		names[i] = fmt.Sprintf("bench%d", i)
	}

	var elapsed time.Duration
	switch *mode {
	case "work":
		elapsed, err = benchWork(t.ns, pool, names, *count, *concurrency, *prefill)
	case "enqueue":
		elapsed, err = benchEnqueue(t.ns, pool, names, *count)
	default:
		err = fmt.Errorf("-mode %q: want work or enqueue", *mode)
	}
	if err != nil {
		return err
	}
	seconds := elapsed.Seconds()
	return writeLine(map[string]any{"jobs": *count, "seconds": seconds, "rate": float64(*count) / seconds})
}

func benchWork(ns string, pool *redis.Pool, names []string, count int64, concurrency int, prefill bool) (time.Duration, error) {
	waiting, err := queued(ns, pool, names)
	if err != nil {
		return 0, err
	}
	if prefill {
		// Jobs that were there before would be run in place of ours.
		if waiting != 0 {
			return 0, fmt.Errorf("%d jobs are queued already: use a fresh namespace", waiting)
		}
		if err := fill(ns, pool, names, count); err != nil {
			return 0, err
		}
	} else if waiting < count {
		return 0, fmt.Errorf("%d jobs are queued, the count of %d would never be reached", waiting, count)
	}

	// The handler that runs the last job takes the time itself: waiting for
	// Drain or polling the counter would add up to the workers' idle sleep.
	var ran atomic.Int64
	finished := make(chan time.Time, 1)
	wp := work.NewWorkerPool(jobContext{}, uint(concurrency), ns, pool)
	for _, name := range names {
		wp.Job(name, func(*work.Job) error {
			if ran.Add(1) == count {
				finished <- time.Now()
			}
			return nil
		})
	}
	start := time.Now()
	wp.Start()
	elapsed := (<-finished).Sub(start)
	wp.Stop()
	return elapsed, nil
}

func benchEnqueue(ns string, pool *redis.Pool, names []string, count int64) (time.Duration, error) {
	enq := work.NewEnqueuer(ns, pool)
	start := time.Now()
	for i := range count {
		if _, err := enq.Enqueue(names[i%int64(len(names))], work.Q{"n": i}); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// queueKey follows the library's private redisKeyJobs.
func queueKey(ns, name string) string {
	if ns != "" && !strings.HasSuffix(ns, ":") {
		ns += ":"
	}
	return ns + "jobs:" + name
}

func queued(ns string, pool *redis.Pool, names []string) (int64, error) {
	conn := pool.Get()
	defer conn.Close()
	var total int64
	for _, name := range names {
		n, err := redis.Int64(conn.Do("LLEN", queueKey(ns, name)))
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// fill writes the bytes that Enqueue would write, but pipelined in batches of
// one LPUSH a name: with one round trip a job it would take longer than the run.
func fill(ns string, pool *redis.Pool, names []string, count int64) error {
	const perPush = 500
	conn := pool.Get()
	defer conn.Close()
	now := time.Now().Unix()
	pushes := 0
	for n, name := range names {
		args := redis.Args{}.Add(queueKey(ns, name))
		for i := int64(n); i < count; i += int64(len(names)) {
			raw, err := json.Marshal(&work.Job{Name: name, ID: newID(), EnqueuedAt: now, Args: work.Q{"n": i}})
			if err != nil {
				return err
			}
			args = args.Add(raw)
			last := i+int64(len(names)) >= count
			if len(args) > perPush || last {
				if err := conn.Send("LPUSH", args...); err != nil {
					return err
				}
				pushes++
				args = redis.Args{}.Add(queueKey(ns, name))
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	var errs []error
	for range pushes {
		if _, err := conn.Receive(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func newID() string {
	var b [12]byte
	crand.Read(b[:])
	return hex.EncodeToString(b[:])
}
