package distro

import (
	"bytes"
	"crypto/rand"
	_ "embed" // the template
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// The template is an empty ext4 file system of DiskSize bytes. Writing it takes
// milliseconds and no tool of the host; the guest fills it. Its inode tables
// are marked as zeroed, since a new sparse file is all zeroes: otherwise the
// guest's kernel would write a gigabyte of zeroes to it, in its own time.
//
//go:generate go run ./mktemplate -o template.zst
//go:embed template.zst
var template []byte

// DiskSize is the size of a new disk in bytes. The file is sparse and takes what
// the guest writes.
const DiskSize = 64 << 30

// templateBlock is the unit of the template's records, see ReadTemplate.
const templateBlock = 4096

// WriteTemplate makes f, which has to be empty, an empty file system with a UUID
// and a hash seed of its own.
func WriteTemplate(f *os.File) error {
	if err := f.Truncate(DiskSize); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	err := ReadTemplate(bytes.NewReader(template), func(block int64, data []byte) error {
		_, err := f.WriteAt(data, block*templateBlock)
		return err
	})
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return renewIdentity(f)
}

// ReadTemplate decodes a template: zstd, inside records of a 32-bit
// little-endian block number and the block's 4096 bytes, for each block that is
// not all zeroes.
func ReadTemplate(r io.Reader, block func(number int64, data []byte) error) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	record := make([]byte, 4+templateBlock)
	for {
		if _, err := io.ReadFull(z, record); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read template: %w", err)
		}
		if err := block(int64(binary.LittleEndian.Uint32(record)), record[4:]); err != nil {
			return err
		}
	}
}

// renewIdentity gives the file system a new UUID and a new seed of directory
// hashes in all copies of the superblock. The file system has the feature
// metadata_csum_seed, so that no other block's checksum depends on the UUID; no
// directory is hashed yet. The journal, being inside, carries no UUID.
func renewIdentity(f *os.File) error {
	var super [superSize]byte
	if _, err := f.ReadAt(super[:], superOffset); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(super[superIncompat:])&incompatSeed == 0 {
		return errors.New("make disk: the template lacks the feature metadata_csum_seed")
	}
	var uuid, seed [16]byte
	for _, id := range []*[16]byte{&uuid, &seed} {
		rand.Read(id[:]) // never fails (crypto/rand)
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
	}
	perGroup := int64(le.Uint32(super[superPerGroup:]))
	groups := (DiskSize/templateBlock + perGroup - 1) / perGroup
	for group := range groups {
		if !hasSuper(group) {
			continue
		}
		at := group * perGroup * templateBlock
		if group == 0 {
			at = superOffset // the boot sector's room is before it
		}
		if _, err := f.ReadAt(super[:], at); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
		if le.Uint16(super[superMagic:]) != ext4Magic {
			return fmt.Errorf("make disk: the template has no superblock in group %d", group)
		}
		copy(super[superUUID:], uuid[:])
		copy(super[superHashSeed:], seed[:])
		le.PutUint32(super[superChecksum:], superSum(super[:superChecksum]))
		if _, err := f.WriteAt(super[:], at); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
	}
	return nil
}

// hasSuper reports whether a block group has a copy of the superblock under the
// feature sparse_super: groups 0, 1 and the powers of 3, 5 and 7.
func hasSuper(group int64) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// superSum is ext4_superblock_csum of the kernel's fs/ext4/super.c: crc32c from
// ~0 with no inversion at the end, which package crc32 does.
func superSum(b []byte) uint32 { return ^crc32.Checksum(b, castagnoli) }
