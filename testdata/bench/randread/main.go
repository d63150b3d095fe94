// Command randread FILE N reads N blocks of 4 KiB at random places of FILE, the
// same ones each time, none of which is in the page cache, and prints the sum of
// their first bytes.
package main

import (
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("randread: ")
	if len(os.Args) != 3 {
		log.Fatal("usage: randread FILE N")
	}
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	f, err := os.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	// No read ahead, which would make it a test of sequential reads.
	for _, advice := range []int{unix.FADV_RANDOM, unix.FADV_DONTNEED} {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, advice); err != nil {
			log.Fatal(err)
		}
	}
	const block = 4096
	random := rand.New(rand.NewPCG(1, 2))
	// Each block once: the second read of one would find it in the cache.
	order := random.Perm(int(info.Size() / block))
	if len(order) < n {
		log.Fatalf("%s has %d blocks, not %d", os.Args[1], len(order), n)
	}
	sum := 0
	b := make([]byte, block)
	for _, i := range order[:n] {
		if _, err := f.ReadAt(b, int64(i)*block); err != nil {
			log.Fatal(err)
		}
		sum += int(b[0])
	}
	fmt.Println(sum)
}
