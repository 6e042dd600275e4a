// Peer: channels in Go between two threads. The cases are those of ../../thread_cases.hpp, and the timing that of
// ../../micro.hpp.
//
// As `go` its scheduler has two processors and puts the goroutines where it likes, which may be on one of them; as
// `go-locked` each has a thread of its own.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strings"
	"time"
)

const noLimit = 1 << 20

func check(good bool, what string) {
	if !good {
		fmt.Fprintln(os.Stderr, "go_threads:", what)
		os.Exit(1)
	}
}

func nsPerIteration(body func(iterations int) int) float64 {
	const stretch = 10 * time.Millisecond
	iterations := 1000
	timed := func() (time.Duration, int) {
		begin := time.Now()
		done := body(iterations)
		return time.Since(begin), done
	}
	for {
		if elapsed, _ := timed(); elapsed >= stretch {
			break
		}
		iterations *= 2
	}
	var stretches [7]float64
	for i := range stretches {
		elapsed, done := timed()
		stretches[i] = float64(elapsed.Nanoseconds()) / float64(done)
	}
	sort.Float64s(stretches[:])
	return stretches[len(stretches)/2]
}

func lock(wanted bool) func() {
	if !wanted {
		return func() {}
	}
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}

func pingPong(locked bool) float64 {
	return nsPerIteration(func(rounds int) int {
		there, back := make(chan uint64), make(chan uint64)
		go func() {
			defer lock(locked)()
			for i := 0; i < rounds; i++ {
				back <- <-there
			}
		}()
		defer lock(locked)()
		for i := 0; i < rounds; i++ {
			there <- uint64(i)
			check(<-back == uint64(i), "a ping came back wrong")
		}
		return rounds
	})
}

func stream(capacity int, locked bool) float64 {
	return nsPerIteration(func(count int) int {
		between := make(chan uint64, capacity)
		go func() {
			defer lock(locked)()
			for i := 0; i < count; i++ {
				between <- uint64(i)
			}
		}()
		defer lock(locked)()
		for i := 0; i < count; i++ {
			check(<-between == uint64(i), "a message was lost")
		}
		return count
	})
}

type benchCase struct {
	name    string
	measure func(locked bool) float64
}

func selects(words []string, name string) bool {
	for _, word := range words {
		if name == word || strings.HasPrefix(name, word+"/") {
			return true
		}
	}
	return len(words) == 0
}

func main() {
	runtime.GOMAXPROCS(2)
	cases := []benchCase{
		{"threads/ping-pong", pingPong},
		{"threads/stream/1", func(locked bool) float64 { return stream(1, locked) }},
		{"threads/stream/1024", func(locked bool) float64 { return stream(1024, locked) }},
		{"threads/stream/mailbox", func(locked bool) float64 { return stream(noLimit, locked) }},
	}
	found := false
	for _, each := range cases {
		if selects(os.Args[1:], each.name) {
			found = true
			fmt.Printf("{\"case\":\"%s\",\"subject\":\"go\",\"unit\":\"ns\",\"value\":%.3f}\n", each.name, each.measure(false))
			fmt.Printf("{\"case\":\"%s\",\"subject\":\"go-locked\",\"unit\":\"ns\",\"value\":%.3f}\n", each.name,
				each.measure(true))
		}
	}
	if !found {
		fmt.Fprintf(os.Stderr, "go_threads: no case %q\n", os.Args[1:])
		os.Exit(2)
	}
}
