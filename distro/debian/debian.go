// Package debian makes a root file system of Debian with mmdebstrap, from the
// mirror that the host's own apt uses, and keeps it for the next time.
package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Packages are what a distro has besides Debian's essential packages and apt.
var Packages = []string{
	"bash-completion", // completion of guest commands asks it
	"ca-certificates", // https
	"git",
	"iproute2",
	"less", // git's pager
	"procps",
}

// Error is a failure with its cure.
type Error struct {
	What, Why, Cure string
	Err             error // what is under it, or nil
}

func (e *Error) Error() string { return e.What + ": " + e.Why }

// Hint is the cure.
func (e *Error) Hint() string { return e.Cure }

// Unwrap is the error under it.
func (e *Error) Unwrap() error { return e.Err }

// Options of Bootstrap.
type Options struct {
	Suite    string            // "" is the host's own release if it runs Debian, else stable
	Cache    string            // folder for finished root file systems
	Path     string            // PATH to find the host's programs in, without the links' folder
	Progress func(step string) // called with what is being done now; may be nil
}

// A Rootfs is a finished root file system.
type Rootfs struct {
	Path   string // of a tar archive, compressed with zstd
	Suite  string
	Cached bool // it was there already
	Stale  bool // the mirror did not answer, so that it may be out of date
}

// Bootstrap returns a root file system of the suite. The one in the cache is
// taken if it was made by the same options and nothing has changed on the
// mirror since, or if the mirror can't be reached.
func Bootstrap(ctx context.Context, opts Options) (*Rootfs, error) {
	b := &bootstrap{Options: opts, root: "/"}
	if b.Progress == nil {
		b.Progress = func(string) {}
	}
	return b.run(ctx)
}

type bootstrap struct {
	Options
	root     string // of the host, for tests
	pockets  []pocket
	archive  mirror // empty if apt has no Debian mirror: mmdebstrap knows one
	security mirror
}

var suiteName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

func (b *bootstrap) run(ctx context.Context) (*Rootfs, error) {
	if b.Suite == "" {
		b.Suite = hostSuite(b.root)
	}
	if !suiteName.MatchString(b.Suite) {
		return nil, &Error{What: "install debian", Why: fmt.Sprintf("%q is not the name of a suite", b.Suite), Cure: "name a release: debian:bookworm, debian:trixie"}
	}
	sources, err := readSources(b.root)
	if err != nil {
		return nil, fmt.Errorf("read apt's sources: %w", err)
	}
	b.archive, b.security = mirrors(sources)
	if err := os.MkdirAll(b.Cache, 0o700); err != nil {
		return nil, fmt.Errorf("make cache folder: %w", err)
	}
	b.Progress("asking the mirror for " + b.Suite)
	state, date, err := b.state(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, errNoSuite) {
		return nil, &Error{What: "install debian:" + b.Suite, Why: "the mirror that apt uses has no suite of this name", Cure: "name a release that it has: debian:bookworm, debian:trixie", Err: err}
	}
	if err != nil {
		if old := b.newest(); old != "" {
			return &Rootfs{Path: old, Suite: b.Suite, Cached: true, Stale: true}, nil
		}
		return nil, &Error{What: "install debian:" + b.Suite, Why: "the mirror that apt uses does not answer: " + err.Error(), Cure: "check the network, and that sudo apt update works", Err: err}
	}
	file := filepath.Join(b.Cache, b.prefix()+state+suffix)
	if _, err := os.Stat(file); err == nil {
		return &Rootfs{Path: file, Suite: b.Suite, Cached: true}, nil
	}
	if err := b.build(ctx, file, date); err != nil {
		return nil, err
	}
	b.prune(file)
	return &Rootfs{Path: file, Suite: b.Suite}, nil
}

const suffix = ".tar.zst"

// state is a hash of the mirror's indices, and the date of the newest. A mirror
// that only mmdebstrap knows can't be asked: then a week has one state.
func (b *bootstrap) state(ctx context.Context) (state string, date time.Time, err error) {
	h := sha256.New()
	if b.archive.uri == "" {
		date = time.Now().UTC().Truncate(7 * 24 * time.Hour)
		fmt.Fprintln(h, date.Unix())
		return hex.EncodeToString(h.Sum(nil))[:12], date, nil
	}
	dir, err := os.MkdirTemp("", "stile-release-")
	if err != nil {
		return "", date, err
	}
	defer os.RemoveAll(dir)
	for _, p := range pockets(b.archive, b.security, b.Suite) {
		release, err := b.fetchRelease(ctx, p, dir)
		if errors.Is(err, errNoSuite) && p.optional {
			continue
		}
		if err != nil {
			return "", date, err
		}
		if d, ok := releaseDate(release); ok && d.After(date) {
			date = d
		}
		h.Write(release)
		b.pockets = append(b.pockets, p)
	}
	return hex.EncodeToString(h.Sum(nil))[:12], date, nil
}

// prefix starts the names of the cached files that the same options make.
func (b *bootstrap) prefix() string {
	h := sha256.New()
	fmt.Fprintln(h, b.archive, b.security, Packages, customize)
	return fmt.Sprintf("debian-%s-%s-%s-", b.Suite, runtime.GOARCH, hex.EncodeToString(h.Sum(nil))[:8])
}

func (b *bootstrap) cached() []string {
	files, _ := filepath.Glob(filepath.Join(b.Cache, b.prefix()+"*"+suffix))
	slices.SortFunc(files, func(x, y string) int { return modTime(y).Compare(modTime(x)) })
	return files
}

func modTime(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (b *bootstrap) newest() string {
	if files := b.cached(); len(files) > 0 {
		return files[0]
	}
	return ""
}

// prune removes what keep has replaced.
func (b *bootstrap) prune(keep string) {
	for _, file := range b.cached() {
		if file != keep {
			os.Remove(file)
		}
	}
}

// env is the environment of the programs that run: the caller's with our PATH,
// and messages in English, for some of them are read here.
func (b *bootstrap) env() []string {
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return name == "PATH" || name == "LANGUAGE" || strings.HasPrefix(name, "LC_")
	})
	return append(env, "PATH="+b.Path+":/usr/local/sbin:/usr/sbin:/sbin", "LC_ALL=C.UTF-8")
}

// lookPath finds a program in the given PATH and where administrators' programs
// are, which a user's PATH may lack.
func lookPath(path, name string) string {
	for _, dir := range append(filepath.SplitList(path), "/usr/local/sbin", "/usr/sbin", "/sbin") {
		if file, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(file) {
			return file
		}
	}
	return ""
}

// keyringFor is the keyring that apt is to trust for a mirror.
func (b *bootstrap) keyringFor(m mirror) (string, error) {
	for _, file := range []string{
		m.signedBy,
		"/usr/share/keyrings/debian-archive-keyring.gpg",
		"/usr/share/keyrings/debian-archive-keyring.pgp",
	} {
		if _, err := os.Stat(filepath.Join(b.root, file)); file != "" && err == nil {
			return file, nil
		} else if file != "" && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read keyring: %w", err)
		}
	}
	return "", &Error{
		What: "install debian:" + b.Suite,
		Why:  "the keys that Debian signs with are not on this system",
		Cure: "sudo apt install debian-archive-keyring",
	}
}
