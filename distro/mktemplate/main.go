// Command mktemplate makes the empty file system that every new disk starts
// from: see template.go in package distro. It needs mke2fs of e2fsprogs 1.45 or
// later and is run by go generate.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/distro"
)

const blockSize = 4096

// features are those of an ext4 file system as Debian makes it, and
// metadata_csum_seed, so that a new UUID changes no block but the superblocks.
const features = "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg," +
	"sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,metadata_csum_seed"

func main() {
	out := flag.String("o", "template.zst", "file to write")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "mktemplate:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	dir, err := os.MkdirTemp("", "mktemplate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "image")
	if err := format(image); err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := encode(&buf, image); err != nil {
		return err
	}
	return os.WriteFile(out, buf.Bytes(), 0o644)
}

// format runs mke2fs with everything pinned that would make two runs differ.
func format(image string) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(distro.DiskSize); err != nil {
		return err
	}
	config := filepath.Join(filepath.Dir(image), "mke2fs.conf") // else the host's
	if err := os.WriteFile(config, []byte("[defaults]\n\tbase_features = none\n"), 0o600); err != nil {
		return err
	}
	cmd := exec.Command("mke2fs", "-q", "-F",
		"-b", "4096", "-I", "256", "-i", "16384",
		"-m", "0", // root needs no reserve: the host's disk is the limit
		"-U", "00000000-0000-4000-8000-000000000000",
		"-O", features,
		"-J", "size=64",
		// lazy_itable_init=0 marks the inode tables as zeroed. The zeroes that
		// it writes are left out of the template.
		"-E", "hash_seed=00000000-0000-4000-8000-000000000001,lazy_itable_init=0,lazy_journal_init=1,nodiscard,root_owner=0:0",
		image)
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000", "MKE2FS_CONFIG="+config)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mke2fs: %w", err)
	}
	return nil
}

// encode writes each block of the image that is not all zeroes.
func encode(w io.Writer, image string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	record := make([]byte, 4+blockSize)
	var zero [blockSize]byte
	for at := int64(0); ; at += blockSize {
		if at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			return z.Close()
		} else if err != nil {
			return fmt.Errorf("seek %s: %w", image, err)
		}
		at -= at % blockSize
		if _, err := f.ReadAt(record[4:], at); err != nil {
			return err
		}
		if bytes.Equal(record[4:], zero[:]) {
			continue
		}
		binary.LittleEndian.PutUint32(record, uint32(at/blockSize))
		if _, err := z.Write(record); err != nil {
			return err
		}
	}
}
