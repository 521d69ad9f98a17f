// Command work is the Go program of the study: `work a` trains, `work b` does other things of the same kind.
package main

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

func first() error {
	names, err := filepath.Glob("*.txt")
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	for _, name := range names {
		group.Add(1)
		go func(name string) {
			defer group.Done()
			data, err := os.ReadFile(name)
			if err == nil {
				fmt.Printf("%x %s\n", sha256.Sum256(data), name)
			}
		}(name)
	}
	group.Wait()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") }))
	defer server.Close()
	for i := 0; i < 5; i++ {
		answer, err := http.Get(server.URL)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
	return os.WriteFile("out", []byte("done\n"), 0o644)
}

func second() error {
	if err := os.MkdirAll("made/deeper", 0o755); err != nil {
		return err
	}
	from, err := os.Open("numbers.txt")
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create("made/n.gz")
	if err != nil {
		return err
	}
	packer := gzip.NewWriter(to)
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		fmt.Fprintln(packer, strings.ToUpper(lines.Text()))
	}
	packer.Close()
	to.Sync()
	to.Close()
	filepath.Walk(".", func(path string, info os.FileInfo, err error) error { return err })
	os.Rename("made/n.gz", "made/m.gz")
	os.Chtimes("made/m.gz", time.Now(), time.Now())
	os.RemoveAll("made")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 200_000))
	}))
	defer server.Close()
	var group sync.WaitGroup
	for i := 0; i < 50; i++ {
		group.Add(1)
		go func(n int) {
			defer group.Done()
			answer, err := http.Post(server.URL, "text/plain", strings.NewReader(strings.Repeat("x", n*1000)))
			if err == nil {
				io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
			}
		}(i)
	}
	group.Wait()
	var waste [][]byte
	for i := 0; i < 200; i++ {
		waste = append(waste, make([]byte, 1<<18))
	}
	runtime.GC()
	tick := time.NewTicker(2 * time.Millisecond)
	for i := 0; i < 5; i++ {
		<-tick.C
	}
	if _, err := os.ReadFile("missing"); err != nil {
		fmt.Fprintln(os.Stderr, err, len(waste))
	}
	return nil
}

func main() {
	work := map[string]func() error{"a": first, "b": second}[os.Args[1]]
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
