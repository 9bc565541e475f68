// The Go column of `cargo xtask bench scope`: the same cases, under the names of the table's groups.
package bench

import (
	"runtime"
	"testing"
)

var count uint64

//go:noinline
func callee(value uint64) {
	if value == 1<<63 {
		panic(value)
	}
	count = value
}

//go:noinline
func byHand(n uint64) {
	callee(n)
	callee(n + 1)
}

//go:noinline
func one(n uint64) {
	defer callee(n + 1)
	callee(n)
}

//go:noinline
func eight(n uint64) {
	defer callee(n + 8)
	defer callee(n + 7)
	defer callee(n + 6)
	defer callee(n + 5)
	defer callee(n + 4)
	defer callee(n + 3)
	defer callee(n + 2)
	defer callee(n + 1)
	callee(n)
}

//go:noinline
func loop(n uint64) {
	for turn := uint64(0); turn < 1000; turn++ {
		defer callee(n + turn)
	}
}

//go:noinline
func loopOfFour(n uint64) {
	for turn := uint64(0); turn < 4; turn++ {
		defer callee(n + turn)
	}
}

//go:noinline
func looks(n uint64) (result uint64) {
	defer func() {
		if recover() == nil {
			callee(n + 1)
		}
	}()
	callee(n)
	return 1
}

//go:noinline
func recovers(n uint64, depth int, body func(uint64, int)) (result uint64) {
	defer func() { recover() }()
	body(n, depth)
	return 1
}

//go:noinline
func raises(n uint64, _ int) { panic(n) }

//go:noinline
func plain(n uint64, depth int) {
	if depth == 0 {
		panic(n)
	}
	plain(n, depth-1)
}

//go:noinline
func deferring(n uint64, depth int) {
	defer callee(n)
	if depth == 0 {
		panic(n)
	}
	deferring(n, depth-1)
}

//go:noinline
func catching(n uint64, depth int) {
	defer func() {
		if value := recover(); value != nil {
			callee(n)
			panic(value)
		}
	}()
	if depth == 0 {
		panic(n)
	}
	catching(n, depth-1)
}

func BenchmarkByHand(b *testing.B) {
	for i := 0; i < b.N; i++ {
		byHand(uint64(i))
	}
}

func BenchmarkOne(b *testing.B) {
	for i := 0; i < b.N; i++ {
		one(uint64(i))
	}
}

func BenchmarkEight(b *testing.B) {
	for i := 0; i < b.N; i++ {
		eight(uint64(i))
	}
}

func BenchmarkLoop1000(b *testing.B) {
	for i := 0; i < b.N; i++ {
		loop(uint64(i))
	}
}

func BenchmarkLoop4(b *testing.B) {
	for i := 0; i < b.N; i++ {
		loopOfFour(uint64(i))
	}
}

func BenchmarkLooks(b *testing.B) {
	for i := 0; i < b.N; i++ {
		looks(uint64(i))
	}
}

func BenchmarkRecover(b *testing.B) {
	for i := 0; i < b.N; i++ {
		recovers(uint64(i), 0, raises)
	}
}

func BenchmarkPlain10(b *testing.B)     { through(b, 10, plain) }
func BenchmarkDeferring10(b *testing.B) { through(b, 10, deferring) }
func BenchmarkCatching10(b *testing.B)  { through(b, 10, catching) }
func BenchmarkPlain100(b *testing.B)    { through(b, 100, plain) }
func BenchmarkDeferring100(b *testing.B) {
	through(b, 100, deferring)
}
func BenchmarkCatching100(b *testing.B) { through(b, 100, catching) }

func through(b *testing.B, depth int, body func(uint64, int)) {
	for i := 0; i < b.N; i++ {
		recovers(uint64(i), depth, body)
	}
}

// A goroutine that returns, and one that leaves by Goexit: the difference is what Goexit costs.
func BenchmarkReturn3(b *testing.B) { rendezvous(b, func() {}) }
func BenchmarkGoexit3(b *testing.B) { rendezvous(b, runtime.Goexit) }

func rendezvous(b *testing.B, end func()) {
	done := make(chan struct{})
	for i := 0; i < b.N; i++ {
		go func() {
			defer func() { done <- struct{}{} }()
			defer callee(2)
			defer callee(1)
			end()
		}()
		<-done
	}
}
