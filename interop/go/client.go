package main

import (
	"fmt"

	"github.com/gocraft/work"
)

type clientOp struct {
	Op    string `json:"op"`
	Page  uint   `json:"page"`
	Score int64  `json:"score"`
	ID    string `json:"id"`
}

type clientAnswer struct {
	Result any    `json:"result"`
	Error  string `json:"error"`
}

// jobPage is one page of a sorted set; Count is the size of the whole set.
type jobPage struct {
	Count int64 `json:"count"`
	Jobs  any   `json:"jobs"`
}

func runClient(args []string) error {
	fs, t := newFlags("client")
	fs.Parse(args)
	// WorkerObservations takes a second connection while it holds the first.
	pool, err := t.connect(4)
	if err != nil {
		return err
	}
	defer pool.Close()
	client := work.NewClient(t.ns, pool)
	return serveLines(
		func(op clientOp) any { return clientAnswerTo(client, op) },
		func(err error) any { return clientAnswer{Error: err.Error()} },
	)
}

// clientAnswerTo reports panics as errors: Queues has one on a tail element
// that does not decode, and the tests look for it.
func clientAnswerTo(client *work.Client, op clientOp) (answer clientAnswer) {
	defer func() {
		if p := recover(); p != nil {
			answer = clientAnswer{Error: fmt.Sprintf("panic: %v", p)}
		}
	}()
	result, err := clientCall(client, op)
	if err != nil {
		return clientAnswer{Error: err.Error()}
	}
	return clientAnswer{Result: result}
}

func clientCall(client *work.Client, op clientOp) (any, error) {
	switch op.Op {
	case "queues":
		return client.Queues()
	case "worker_pool_heartbeats":
		return client.WorkerPoolHeartbeats()
	case "worker_observations":
		return client.WorkerObservations()
	case "scheduled_jobs":
		jobs, count, err := client.ScheduledJobs(op.Page)
		return jobPage{count, jobs}, err
	case "retry_jobs":
		jobs, count, err := client.RetryJobs(op.Page)
		return jobPage{count, jobs}, err
	case "dead_jobs":
		jobs, count, err := client.DeadJobs(op.Page)
		return jobPage{count, jobs}, err
	case "delete_dead_job":
		return nil, client.DeleteDeadJob(op.Score, op.ID)
	case "delete_retry_job":
		return nil, client.DeleteRetryJob(op.Score, op.ID)
	case "delete_scheduled_job":
		return nil, client.DeleteScheduledJob(op.Score, op.ID)
	case "retry_dead_job":
		return nil, client.RetryDeadJob(op.Score, op.ID)
	case "retry_all_dead_jobs":
		return nil, client.RetryAllDeadJobs()
	case "delete_all_dead_jobs":
		return nil, client.DeleteAllDeadJobs()
	}
	return nil, fmt.Errorf("unknown op %q", op.Op)
}
