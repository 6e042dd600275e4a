// Peer: channels, select and mutexes in Go, on one processor. The cases are those of ../../sync_cases.hpp, and the timing
// that of ../../micro.hpp.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	ringSize = 1000
	sky      = 1_000_000
	skyFan   = 10
	skySum   = sky * (sky - 1) / 2
)

func check(good bool, what string) {
	if !good {
		fmt.Fprintln(os.Stderr, "go_sync:", what)
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

func pingPong() float64 {
	return nsPerIteration(func(rounds int) int {
		there, back := make(chan uint64), make(chan uint64)
		go func() {
			for i := 0; i < rounds; i++ {
				back <- <-there
			}
		}()
		for i := 0; i < rounds; i++ {
			there <- uint64(i)
			check(<-back == uint64(i), "a ping came back wrong")
		}
		return rounds
	})
}

func stream(capacity int) float64 {
	return nsPerIteration(func(count int) int {
		between := make(chan uint64, capacity)
		go func() {
			for i := 0; i < count; i++ {
				between <- uint64(i)
			}
		}()
		for i := 0; i < count; i++ {
			check(<-between == uint64(i), "a message was lost")
		}
		return count
	})
}

func handOver() float64 {
	return nsPerIteration(func(times int) int {
		var one sync.Mutex
		var all sync.WaitGroup
		for i := 0; i < 2; i++ {
			all.Add(1)
			go func() {
				for round := 0; round < times/2; round++ {
					one.Lock()
					runtime.Gosched()
					one.Unlock()
				}
				all.Done()
			}()
		}
		all.Wait()
		return times
	})
}

func sendInTurn(to []chan uint64, count int) {
	for i := 0; i < count; i++ {
		to[i%len(to)] <- uint64(i)
	}
}

func selectOf2() float64 {
	return nsPerIteration(func(count int) int {
		a, b := make(chan uint64), make(chan uint64)
		go sendInTurn([]chan uint64{a, b}, count)
		for i := 0; i < count; i++ {
			var which int
			select {
			case <-a:
				which = 0
			case <-b:
				which = 1
			}
			check(which == i%2, "a select said the wrong channel")
		}
		return count
	})
}

func selectOf8() float64 {
	return nsPerIteration(func(count int) int {
		var all [8]chan uint64
		for i := range all {
			all[i] = make(chan uint64)
		}
		go sendInTurn(all[:], count)
		for i := 0; i < count; i++ {
			var which int
			select {
			case <-all[0]:
				which = 0
			case <-all[1]:
				which = 1
			case <-all[2]:
				which = 2
			case <-all[3]:
				which = 3
			case <-all[4]:
				which = 4
			case <-all[5]:
				which = 5
			case <-all[6]:
				which = 6
			case <-all[7]:
				which = 7
			}
			check(which == i%8, "a select said the wrong channel")
		}
		return count
	})
}

func skynet(result chan<- uint64, first, size uint64) {
	if size == 1 {
		result <- first
		return
	}
	parts := make(chan uint64, skyFan)
	part := size / skyFan
	for i := uint64(0); i < skyFan; i++ {
		go skynet(parts, first+i*part, part)
	}
	sum := uint64(0)
	for i := 0; i < skyFan; i++ {
		sum += <-parts
	}
	result <- sum
}

func runSkynet() {
	result := make(chan uint64)
	go skynet(result, 0, sky)
	check(<-result == skySum, "skynet got a wrong sum")
}

func skynetTime() float64 {
	begin := time.Now()
	runSkynet()
	return float64(time.Since(begin).Nanoseconds()) / sky
}

func peakBytes() float64 {
	status, err := os.ReadFile("/proc/self/status")
	check(err == nil, "cannot read /proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "VmHWM:") {
			kilobytes, err := strconv.ParseFloat(strings.Fields(line)[1], 64)
			check(err == nil, "VmHWM is no number")
			return kilobytes * 1024
		}
	}
	check(false, "no VmHWM in /proc/self/status")
	return 0
}

func skynetMemory() float64 {
	check(os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) == nil, "cannot reset the peak")
	before := peakBytes()
	runSkynet()
	return (peakBytes() - before) / sky
}

func ring() float64 {
	return nsPerIteration(func(iterations int) int {
		rounds := (iterations + ringSize - 1) / ringSize
		var between [ringSize]chan uint64
		for i := range between {
			between[i] = make(chan uint64)
		}
		for i := 1; i < ringSize; i++ {
			from, to := between[i-1], between[i]
			go func() {
				for round := 0; round < rounds; round++ {
					to <- <-from + 1
				}
			}()
		}
		for i := 0; i < rounds; i++ {
			between[0] <- 1
			check(<-between[ringSize-1] == ringSize, "a token took another way")
		}
		return rounds * ringSize
	})
}

type benchCase struct {
	name, unit string
	measure    func() float64
}

func listOfCases() []benchCase {
	cases := []benchCase{{"channel/ping-pong", "ns", pingPong}}
	for _, capacity := range []int{0, 1, 1024} {
		capacity := capacity
		cases = append(cases, benchCase{fmt.Sprintf("channel/stream/%d", capacity), "ns",
			func() float64 { return stream(capacity) }})
	}
	return append(cases, benchCase{"mutex/hand-over", "ns", handOver}, benchCase{"select/2", "ns", selectOf2},
		benchCase{"select/8", "ns", selectOf8}, benchCase{"skynet/time", "ns", skynetTime},
		benchCase{"skynet/memory", "bytes", skynetMemory}, benchCase{"ring/1000", "ns", ring})
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
			fmt.Printf("{\"case\":\"%s\",\"subject\":\"go\",\"unit\":\"%s\",\"value\":%.3f}\n", each.name, each.unit,
				each.measure())
		}
	}
	if !found {
		fmt.Fprintf(os.Stderr, "go_sync: no case %q\n", os.Args[1:])
		os.Exit(2)
	}
}
