package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// sourceEnv names a source archive that the user has.
const sourceEnv = "STILE_KERNEL_SOURCE"

// fetch returns an archive whose hash stands in the pin: the user's file if
// one is named, else one from the cache, else from the first source that has
// it.
func (b *build) fetch(ctx context.Context) (string, error) {
	if path := os.Getenv(sourceEnv); path != "" {
		return path, b.checkUsers(path)
	}
	for _, src := range b.pin.Sources {
		path := filepath.Join(b.sources, src.SHA256)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		// It was checked when it came; disks and people change files.
		if err := checkHash(path, src.SHA256); err != nil {
			return "", fmt.Errorf("%w; remove it to fetch it again", err)
		}
		return path, nil
	}
	var errs []error
	for _, src := range b.pin.Sources {
		if src.Kind != "deb" {
			continue // a file that only a user can name
		}
		path, err := b.fetchDeb(ctx, src)
		if err == nil {
			return path, nil
		}
		// Wrong bytes are no reason to go and ask elsewhere.
		if _, wrong := errors.AsType[*hashError](err); wrong || ctx.Err() != nil {
			return "", err
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("%w\nlinux %s can be given as a file: %s=PATH, with a hash that stands in kernel/pin",
		errors.Join(errs...), b.pin.Version, sourceEnv)
}

// checkUsers makes sure that the file that the user named is one of the pin's.
func (b *build) checkUsers(path string) error {
	sum, err := hash(path)
	if err != nil {
		return fmt.Errorf("%s: %w", sourceEnv, err)
	}
	for _, src := range b.pin.Sources {
		if src.SHA256 == sum {
			return nil
		}
	}
	return fmt.Errorf("%s: %s has sha256 %s, which does not stand in kernel/pin", sourceEnv, path, sum)
}

// unpack puts the source's files into b.tree(). What kind of archive it is,
// its first bytes say: the user's file may have any name.
func (b *build) unpack(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, 8)
	if _, err := io.ReadFull(f, magic); err != nil {
		return fmt.Errorf("read %s: %w", archive, err)
	}
	if string(magic) == "!<arch>\n" {
		inner := filepath.Join(b.work, "source.tar.xz")
		if err := b.unpackDeb(ctx, archive, inner); err != nil {
			return err
		}
		defer os.Remove(inner)
		archive = inner
	}
	// --no-same-owner: root would get the packer's owner. tar finds out
	// itself how the file is compressed.
	err = b.ui.run(b.command(ctx, "tar", "-xf", archive, "--strip-components=1", "--no-same-owner"))
	if err != nil {
		return err
	}
	return b.checkVersion()
}

// unpackDeb takes the one tarball out of a linux-source package.
func (b *build) unpackDeb(ctx context.Context, deb, to string) error {
	dir := filepath.Join(b.work, "deb")
	if err := b.ui.run(b.command(ctx, "dpkg-deb", "--extract", deb, dir)); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(dir, "usr", "src", "linux-source-*.tar.xz"))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%s holds %d source tarballs, not one", deb, len(found))
	}
	if err := os.Rename(found[0], to); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// checkVersion compares the source's own Makefile with the pin: the hash says
// that these are the bytes meant, this says that the pin means what it names.
func (b *build) checkVersion() error {
	text, err := os.ReadFile(filepath.Join(b.tree(), "Makefile"))
	if err != nil {
		return err
	}
	got, err := makefileVersion(string(text))
	if err != nil {
		return err
	}
	if got != b.pin.Version {
		return fmt.Errorf("the source is linux %s, the pin says %s", got, b.pin.Version)
	}
	return nil
}

// makefileVersion reads the version from the head of the kernel's Makefile.
func makefileVersion(text string) (string, error) {
	var parts []string
	for _, name := range []string{"VERSION", "PATCHLEVEL", "SUBLEVEL"} {
		for l := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(l, name+" ="); ok {
				parts = append(parts, strings.TrimSpace(value))
				break
			}
		}
	}
	if len(parts) != 3 {
		return "", errors.New("the source's Makefile has no version")
	}
	return strings.Join(parts, "."), nil
}

// hashError is an archive that is not the one that the pin means.
type hashError struct{ path, got, want string }

func (e *hashError) Error() string {
	return fmt.Sprintf("%s has sha256 %s, the pin says %s", e.path, e.got, e.want)
}

func checkHash(path, want string) error {
	got, err := hash(path)
	if err != nil {
		return err
	}
	if got != want {
		return &hashError{path: path, got: got, want: want}
	}
	return nil
}

func hash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// command is a tool that runs in the source tree with an environment of its
// own: neither CFLAGS nor an outer make's flags may change the kernel.
func (b *build) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := command(ctx, name, args...)
	cmd.Dir = b.tree()
	cmd.Env = append(plainEnv(),
		// In place of now, the user, the host and a counter.
		"KBUILD_BUILD_TIMESTAMP=1980-01-01T00:00:00Z",
		"KBUILD_BUILD_USER=stile",
		"KBUILD_BUILD_HOST=stile",
		"KBUILD_BUILD_VERSION=1",
		"LOCALVERSION=", // set, so that no "+" is added inside of a git checkout
	)
	return cmd
}
