package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocraft/work"
)

type enqueueOp struct {
	Op   string         `json:"op"`
	Name string         `json:"name"`
	Args map[string]any `json:"args"`
	Secs int64          `json:"secs"`
	Key  map[string]any `json:"key"`
}

// enqueueAnswer has the job as the library marshals it; null for a duplicate.
// Job and error can both be set: the job is pushed before its name is recorded.
type enqueueAnswer struct {
	Job       json.RawMessage `json:"job"`
	RunAt     *int64          `json:"run_at"`
	Duplicate bool            `json:"duplicate"`
	Error     string          `json:"error"`
}

func runEnqueue(args []string) error {
	fs, t := newFlags("enqueue")
	fs.Parse(args)
	pool, err := t.connect(4)
	if err != nil {
		return err
	}
	defer pool.Close()
	enq := work.NewEnqueuer(t.ns, pool)
	return serveLines(
		func(op enqueueOp) any { return enqueueOne(enq, op) },
		func(err error) any { return enqueueAnswer{Error: err.Error()} },
	)
}

func enqueueOne(enq *work.Enqueuer, op enqueueOp) enqueueAnswer {
	args, err := goValues(op.Args)
	if err != nil {
		return enqueueAnswer{Error: err.Error()}
	}
	key, err := goValues(op.Key)
	if err != nil {
		return enqueueAnswer{Error: err.Error()}
	}
	var job *work.Job
	var later *work.ScheduledJob
	switch op.Op {
	case "enqueue":
		job, err = enq.Enqueue(op.Name, args)
	case "enqueue_in":
		later, err = enq.EnqueueIn(op.Name, op.Secs, args)
	case "enqueue_unique":
		job, err = enq.EnqueueUnique(op.Name, args)
	case "enqueue_unique_in":
		later, err = enq.EnqueueUniqueIn(op.Name, op.Secs, args)
	case "enqueue_unique_by_key":
		job, err = enq.EnqueueUniqueByKey(op.Name, args, key)
	case "enqueue_unique_in_by_key":
		later, err = enq.EnqueueUniqueInByKey(op.Name, op.Secs, args, key)
	default:
		return enqueueAnswer{Error: fmt.Sprintf("unknown op %q", op.Op)}
	}

	var answer enqueueAnswer
	if later != nil {
		job = later.Job
		answer.RunAt = &later.RunAt
	}
	if job != nil {
		raw, marshalErr := json.Marshal(job)
		answer.Job = raw
		err = errors.Join(err, marshalErr)
	}
	// The library tells a duplicate only by returning neither job nor error.
	answer.Duplicate = job == nil && err == nil
	if err != nil {
		answer.Error = err.Error()
	}
	return answer
}

func runFlood(args []string) error {
	fs, t := newFlags("flood")
	names := fs.String("names", "", "job names, separated by commas (required)")
	count := fs.Int64("count", 0, "jobs in all")
	conns := fs.Int("conns", 4, "goroutines, each with a connection of its own")
	fs.Parse(args)
	if *names == "" || *count < 0 || *conns < 1 {
		return fmt.Errorf("needs -names a,b,c, -count >= 0 and -conns >= 1")
	}
	pool, err := t.connect(*conns)
	if err != nil {
		return err
	}
	defer pool.Close()

	enq := work.NewEnqueuer(t.ns, pool)
	nameOf := strings.Split(*names, ",")
	var next atomic.Int64
	errs := make([]error, *conns)
	var wg sync.WaitGroup
	start := time.Now()
	for c := range *conns {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= *count {
					return
				}
				if _, err := enq.Enqueue(nameOf[i%int64(len(nameOf))], work.Q{"n": i}); err != nil {
					errs[c] = err
					return
				}
			}
		})
	}
	wg.Wait()
	seconds := time.Since(start).Seconds()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return writeLine(map[string]any{"count": *count, "seconds": seconds})
}
