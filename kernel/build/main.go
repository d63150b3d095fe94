// Command build makes the Linux kernel of stile's guests and puts it into
// stile's cache, where package kernel finds it:
//
//	go run ./kernel/build [-o DIR] [-j N] [-set NAME] [-keep] [-path]
//
// It takes the source from the first place in kernel/pin that has it, checks
// its hash, applies kernel/patches, merges kernel/config on tinyconfig, checks
// that each line of it survived, compiles and installs. What it needs for that
// it names when it is missing. A second run finds the kernel and is done. With
// -path it builds nothing and prints where the kernel is.
//
// Two builds of one source with one compiler give the same bytes. The
// environment of the caller does not reach the kernel's make.
//
// STILE_KERNEL_SOURCE names a file to take the source from, a .deb or a
// tarball: for hosts with no Debian mirror. Its hash must stand in the pin.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"flag"

	"github.com/stilehq/stile/kernel"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintf(os.Stderr, "kernel: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("kernel/build", flag.ContinueOnError)
	cache := flags.String("o", "", "cache `folder` to build and install in (default $XDG_CACHE_HOME/stile)")
	jobs := flags.Int("j", runtime.NumCPU(), "compile `N` files at a time")
	name := flags.String("set", kernel.Guest.Name, "`name` of the set of fragments")
	keep := flags.Bool("keep", false, "keep the unpacked and compiled tree, also on failure")
	path := flags.Bool("path", false, "print the path of the kernel, which must have been built, and do nothing else")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *jobs < 1 {
		return fmt.Errorf("-j %d: at least one", *jobs)
	}
	set, err := findSet(*name)
	if err != nil {
		return err
	}
	if *cache == "" {
		if *cache, err = defaultCache(); err != nil {
			return err
		}
	}
	// The tools run in other folders.
	if *cache, err = filepath.Abs(*cache); err != nil {
		return fmt.Errorf("cache folder: %w", err)
	}
	if *path {
		found, err := set.Find(*cache)
		if err != nil {
			return err
		}
		fmt.Println(found)
		return nil
	}
	b, err := newBuild(set, *cache, *jobs)
	if err != nil {
		return err
	}
	b.keep = *keep
	return b.run(ctx)
}

func findSet(name string) (kernel.Set, error) {
	for _, set := range kernel.Sets() {
		if set.Name == name {
			return set, nil
		}
	}
	return kernel.Set{}, fmt.Errorf("no set %q", name)
}

// defaultCache is stile's cache folder, as the rest of stile computes it.
func defaultCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(dir, "stile"), nil
}
