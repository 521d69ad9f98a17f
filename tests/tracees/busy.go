// busy: computes, allocates, collects garbage, and waits in many goroutines, checks every result, and ends with
// "well: true" and status 0 once its stdin is closed.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	var stop atomic.Bool
	var n atomic.Int64
	var wg sync.WaitGroup
	want := sha256.Sum256(make([]byte, 4096))
	for i := 0; i < 20; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			for !stop.Load() {
				b := make([]byte, 4096)
				if sha256.Sum256(b) != want {
					fmt.Fprintln(os.Stderr, "sum")
					os.Exit(9)
				}
				m := map[int][]byte{}
				for k := 0; k < 50; k++ {
					m[k] = make([]byte, 100+k)
					m[k][k] = byte(k)
				}
				for k := 0; k < 50; k++ {
					if m[k][k] != byte(k) {
						os.Exit(8)
					}
				}
				r, w, e := os.Pipe()
				if e != nil {
					fmt.Fprintln(os.Stderr, e)
					os.Exit(7)
				}
				go w.Write([]byte("hello"))
				x := make([]byte, 5)
				if k, e := r.Read(x); k != 5 || e != nil {
					fmt.Fprintln(os.Stderr, k, e)
					os.Exit(6)
				}
				r.Close()
				w.Close()
				t := time.Now()
				time.Sleep(time.Duration(i%5) * time.Millisecond)
				if time.Since(t) < time.Duration(i%5)*time.Millisecond {
					os.Exit(5)
				}
				if i == 0 {
					runtime.GC()
				}
				n.Add(1)
			}
		}(i)
	}
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadByte()
	stop.Store(true)
	wg.Wait()
	fmt.Println("well:", n.Load() > 0)
}
