// Peer: limits in time, cancelling and waiting for many in Go: context.WithTimeout, cancel and WaitGroup, on one
// processor. The cases are those of ../../scope_cases.hpp, and the timing that of ../../micro.hpp.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"
)

const (
	limit          = 600 * time.Second
	otherDeadlines = 100_000
	parked         = 100_000
	children       = 1000
)

func fail(what string) {
	fmt.Fprintln(os.Stderr, "go_scope:", what)
	os.Exit(1)
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

// Deadlines that stay outstanding until the returned function is called.
func setOthers(count int) func() {
	cancels := make([]context.CancelFunc, count)
	state := uint64(1)
	for i := range cancels {
		state = state*6364136223846793005 + 1442695040888963407
		wait := 100*time.Second + time.Duration((state>>33)%1_000_000_000)*time.Microsecond
		_, cancels[i] = context.WithTimeout(context.Background(), wait)
	}
	return func() {
		for _, cancel := range cancels {
			cancel()
		}
	}
}

func receive(from <-chan int) int { return <-from }

func receiveWithin(from <-chan int) int {
	within, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	select {
	case got := <-from:
		return got
	case <-within.Done():
		fail("a limit ran out")
		return 0
	}
}

func timeReceives(from <-chan int, receiveOne func(<-chan int) int) float64 {
	return nsPerIteration(func(iterations int) int {
		for i := 0; i < iterations; i++ {
			if receiveOne(from) != 0 {
				fail("a wait gave something else than its result")
			}
		}
		return iterations
	})
}

// A channel that is closed always has something to receive.
func ready(deadlines int, receiveOne func(<-chan int) int) float64 {
	defer setOthers(deadlines)()
	from := make(chan int)
	close(from)
	return timeReceives(from, receiveOne)
}

func waits(deadlines int, receiveOne func(<-chan int) int) float64 {
	defer setOthers(deadlines)()
	from := make(chan int)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case from <- 0:
			case <-stop:
				return
			}
		}
	}()
	return timeReceives(from, receiveOne)
}

func cancelParked() float64 {
	within, cancel := context.WithCancel(context.Background())
	var begun, ended sync.WaitGroup
	begun.Add(parked)
	ended.Add(parked)
	for i := 0; i < parked; i++ {
		go func() {
			begun.Done()
			<-within.Done()
			ended.Done()
		}()
	}
	begun.Wait()
	runtime.Gosched() // the last of them begins to wait
	begin := time.Now()
	cancel()
	ended.Wait()
	return float64(time.Since(begin).Nanoseconds()) / parked
}

func waitForChildren() float64 {
	return nsPerIteration(func(iterations int) int {
		times := iterations / children
		for i := 0; i < times; i++ {
			var all sync.WaitGroup
			all.Add(children)
			for child := 0; child < children; child++ {
				go func() { all.Done() }()
			}
			all.Wait()
		}
		return times * children
	})
}

type benchCase struct {
	name, subject string
	measure       func() float64
}

func listOfCases() []benchCase {
	var cases []benchCase
	for _, others := range []struct {
		suffix string
		count  int
	}{{"", 0}, {"-100k", otherDeadlines}} {
		count := others.count
		add := func(what string, measure func(int, func(<-chan int) int) float64) {
			name := "limit/" + what + others.suffix
			cases = append(cases,
				benchCase{name, "go-unlimited", func() float64 { return measure(count, receive) }},
				benchCase{name, "go", func() float64 { return measure(count, receiveWithin) }})
		}
		add("ready", ready)
		add("waits", waits)
		add("task", ready) // there is one kind of function
	}
	return append(cases, benchCase{"cancel/100k", "go", cancelParked}, benchCase{"nursery/1000", "go", waitForChildren})
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
	runtime.GOMAXPROCS(1)
	found := false
	for _, each := range listOfCases() {
		if selects(os.Args[1:], each.name) {
			found = true
			fmt.Printf("{\"case\":\"%s\",\"subject\":\"%s\",\"unit\":\"ns\",\"value\":%.3f}\n",
				each.name, each.subject, each.measure())
		}
	}
	if !found {
		fmt.Fprintf(os.Stderr, "go_scope: no case %q\n", os.Args[1:])
		os.Exit(2)
	}
}
