package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gocraft/work"
	"golang.org/x/sys/unix"
)

// jobContext is the library's per-job context type; it must be a struct.
type jobContext struct{}

type handler struct {
	ledger    *os.File // nil: none is kept
	sleep     time.Duration
	failEvery int64
	checkin   string
	runs      atomic.Int64
}

func runWork(args []string) error {
	fs, t := newFlags("work")
	concurrency := fs.Int("concurrency", 1, "workers")
	jobs := fs.String("jobs", "", "name[:prio[:maxfails[:maxconc]]], separated by commas")
	ledger := fs.String("ledger", "", "file that gets a line at each start and end of a job")
	sleepMS := fs.Int("sleep-ms", 0, "how long each job takes")
	failEvery := fs.Int64("fail-every", 0, "fail every K-th run, 0 for none")
	periodic := fs.String("periodic", "", "spec|name, separated by semicolons")
	drainExit := fs.Bool("drain-exit", false, "drain the queues, stop and exit")
	skipDead := fs.Bool("skip-dead", false, "drop a job after its last failure")
	maxFails := fs.Uint("max-fails", 0, "attempts where -jobs says nothing, 0 for the library's default")
	backoff := fs.Int64("backoff", -1, "seconds before each retry, -1 for the library's formula")
	checkin := fs.String("checkin", "", "text each job checks in with")
	fs.Parse(args)

	// Nothing seeds math/rand here: with a go line of 1.20 or later in go.mod
	// the runtime does (and from 1.24 on rand.Seed is a no-op), so two pools of
	// one test draw different sampler orders and backoff jitter.
	pool, err := t.connect(workerConns(*concurrency))
	if err != nil {
		return err
	}
	defer pool.Close()

	h := &handler{sleep: time.Duration(*sleepMS) * time.Millisecond, failEvery: *failEvery, checkin: *checkin}
	if *ledger != "" {
		h.ledger, err = os.OpenFile(*ledger, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer h.ledger.Close()
	}

	wp := work.NewWorkerPool(jobContext{}, uint(*concurrency), t.ns, pool)
	defaults := work.JobOptions{MaxFails: *maxFails, SkipDead: *skipDead}
	if *backoff >= 0 {
		defaults.Backoff = func(*work.Job) int64 { return *backoff }
	}
	for _, spec := range splitList(*jobs, ",") {
		name, opts, err := parseJob(spec, defaults)
		if err != nil {
			return err
		}
		wp.JobWithOptions(name, opts, h.run)
	}
	for _, entry := range splitList(*periodic, ";") {
		spec, name, ok := strings.Cut(entry, "|")
		if !ok {
			return fmt.Errorf("-periodic %q: want spec|name", entry)
		}
		wp.PeriodicallyEnqueue(spec, name)
	}

	// Before Start, so that a signal sent on `ready` cannot find the default
	// action still in place.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	wp.Start()
	if _, err := stdout.WriteString("ready\n"); err != nil {
		return err
	}
	drained := make(chan struct{})
	if *drainExit {
		go func() {
			wp.Drain()
			close(drained)
		}()
	}
	select {
	case <-signals:
	case <-drained:
	}
	wp.Stop()
	_, err = stdout.WriteString("stopped\n")
	return err
}

func splitList(s, sep string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, sep)
}

func parseJob(spec string, opts work.JobOptions) (string, work.JobOptions, error) {
	parts := strings.Split(spec, ":")
	fields := []*uint{&opts.Priority, &opts.MaxFails, &opts.MaxConcurrency}
	if len(parts) > len(fields)+1 {
		return "", opts, fmt.Errorf("-jobs %q: want name[:prio[:maxfails[:maxconc]]]", spec)
	}
	for i, text := range parts[1:] {
		if text == "" {
			continue // name::3 leaves the priority alone
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return "", opts, fmt.Errorf("-jobs %q: %w", spec, err)
		}
		*fields[i] = uint(n)
	}
	return parts[0], opts, nil
}

func (h *handler) run(job *work.Job) error {
	run := h.runs.Add(1)
	h.record("start", job)
	defer h.record("end", job) // after a panic too
	if h.checkin != "" {
		job.Checkin(h.checkin)
	}
	time.Sleep(h.sleep)
	if text, ok := job.Args["panic"].(string); ok {
		panic(text)
	}
	if job.Args["fail"] == true {
		if text, ok := job.Args["err"].(string); ok {
			return errors.New(text)
		}
		return errors.New("told to fail")
	}
	if h.failEvery > 0 && run%h.failEvery == 0 {
		return fmt.Errorf("run %d fails", run)
	}
	return nil
}

// record appends one ledger line in a single write, so that lines of several
// processes never mix and a kill leaves none cut short. Name and id are
// percent-encoded, since the ids of periodic jobs have spaces in them.
func (h *handler) record(event string, job *work.Job) {
	if h.ledger == nil {
		return
	}
	line := fmt.Sprintf("%s %s %s %d %d %d\n", event, url.PathEscape(job.Name), url.PathEscape(job.ID),
		job.Fails, os.Getpid(), monotonicNS())
	if _, err := h.ledger.WriteString(line); err != nil {
		// The ledger is the test's only witness: no run may go unrecorded.
		fmt.Fprintf(os.Stderr, "gowork work: ledger: %v\n", err)
		os.Exit(1)
	}
}

// monotonicNS reads the clock that Python's time.monotonic_ns reads on Linux;
// Go's own monotonic time starts anew in each process and cannot be compared.
func monotonicNS() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}
