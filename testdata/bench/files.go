package main

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
)

// What the rows about files work on, the same bytes for both sides.
const (
	treeDirs, treeFiles = 120, 90    // find, git status
	tarFiles, tarSize   = 2000, 9000 // tar x
	randomSize          = 256 << 20
	randomReads         = 4096
)

// writeFiles fills a folder: repo/ is a git repository with a tree of files,
// small.tar an archive, random a large file, and randread the program that
// reads it.
func writeFiles(ctx context.Context, dir, source string) error {
	random := rand.New(rand.NewPCG(3, 4))
	text := make([]byte, tarSize)
	fill := func(b []byte) []byte {
		for i := range b {
			b[i] = 'a' + byte(random.UintN(26))
		}
		return b
	}
	for d := range treeDirs {
		folder := filepath.Join(dir, "repo", fmt.Sprintf("dir%03d", d))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		for f := range treeFiles {
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("file%03d.txt", f)), fill(text[:random.IntN(4000)+1]), 0o644); err != nil {
				return err
			}
		}
	}
	for _, args := range [][]string{
		{"init", "-q"}, {"add", "."},
		{"-c", "user.name=bench", "-c", "user.email=bench", "commit", "-q", "-m", "tree"},
	} {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = filepath.Join(dir, "repo")
		if err := run(cmd); err != nil {
			return err
		}
	}
	if err := writeTar(filepath.Join(dir, "small.tar"), func() []byte { return fill(text) }); err != nil {
		return err
	}
	large := make([]byte, randomSize)
	for i := 0; i < len(large); i += 8 {
		large[i] = byte(random.UintN(256))
	}
	if err := os.WriteFile(filepath.Join(dir, "random"), large, 0o644); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "randread"), "./testdata/bench/randread")
	build.Dir = source
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	return run(build)
}

func writeTar(path string, content func() []byte) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(f)
	w := tar.NewWriter(buffered)
	defer func() { err = errors.Join(err, w.Close(), buffered.Flush(), f.Close()) }()
	for i := range tarFiles {
		if i%50 == 0 {
			h := &tar.Header{Name: fmt.Sprintf("dir%02d/", i/50), Typeflag: tar.TypeDir, Mode: 0o755}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
		}
		b := content()
		h := &tar.Header{Name: fmt.Sprintf("dir%02d/file%d", i/50, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(b))}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}
