package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
)

// serveLines answers each JSON line of standard input with one JSON line. A
// line that does not decode is answered through fail, so that the peer's
// count of requests and answers stays equal.
func serveLines[Op any](handle func(Op) any, fail func(error) any) error {
	in := bufio.NewReader(os.Stdin)
	for {
		line, readErr := in.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			var answer any
			if op, err := decodeOp[Op](line); err != nil {
				answer = fail(err)
			} else {
				answer = handle(op)
			}
			if err := writeLine(answer); err != nil {
				return err
			}
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

// decodeOp refuses unknown fields: a misspelt one in a test would otherwise
// quietly take its zero value.
func decodeOp[Op any](line []byte) (Op, error) {
	var op Op
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	dec.DisallowUnknownFields()
	return op, dec.Decode(&op)
}

func writeLine(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = stdout.Write(append(b, '\n'))
	return err
}

// goValues turns the numbers of a decoded map into what a Go caller would have
// passed: integers as int64 (uint64 above that), so that the library writes
// their exact digits, everything else as float64. json.Number itself will not
// do, since the library would then copy the text of the input (1.50, 1e3).
func goValues(m map[string]any) (map[string]any, error) {
	if m == nil {
		return nil, nil // nil and empty maps are different unique keys
	}
	v, err := goValue(m)
	if err != nil {
		return nil, err
	}
	return v.(map[string]any), nil
}

func goValue(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		return goNumber(v.String())
	case map[string]any:
		for k := range v {
			if v[k], err = goValue(v[k]); err != nil {
				return nil, err
			}
		}
	case []any:
		for i := range v {
			if v[i], err = goValue(v[i]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func goNumber(s string) (any, error) {
	// "-0" is a float in Go too: as int64 it would lose its sign.
	if !strings.ContainsAny(s, ".eE") && s != "-0" {
		if i, err := strconv.ParseInt(s, 10, 64); err == nil {
			return i, nil
		}
		if u, err := strconv.ParseUint(s, 10, 64); err == nil {
			return u, nil
		}
	}
	return strconv.ParseFloat(s, 64)
}
