package debian

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// hostSuite is the release of Debian that the host itself runs, "stable" if it
// runs something else.
func hostSuite(root string) string {
	data, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if err != nil {
		return "stable"
	}
	values := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			values[name] = strings.Trim(value, `"'`)
		}
	}
	suite := values["VERSION_CODENAME"]
	if values["ID"] != "debian" || suite == "" {
		return "stable"
	}
	return suite
}

// A pocket is one suite of one mirror: bookworm, bookworm-updates.
type pocket struct {
	mirror
	suite    string
	optional bool // may be missing
}

// pockets are those that make up a release.
func pockets(archive, security mirror, suite string) []pocket {
	list := []pocket{{archive, suite, false}}
	switch suite {
	case "sid", "unstable", "experimental":
		return list
	}
	list = append(list, pocket{archive, suite + "-updates", true})
	if security.uri != "" {
		list = append(list, pocket{security, suite + "-security", true})
	}
	return list
}

// errNoSuite says that the mirror answers, but does not have what was asked.
var errNoSuite = errors.New("the mirror has no such suite")

// fetchRelease gets a pocket's signed index with apt's own downloader, so that
// proxies and whatever else the host's apt is told hold here too. apt itself
// checks signatures later; this is to know what is new.
func (b *bootstrap) fetchRelease(ctx context.Context, p pocket, dir string) ([]byte, error) {
	file := filepath.Join(dir, strings.ReplaceAll(p.suite, "/", "_"))
	cmd := exec.CommandContext(ctx, aptHelper, "download-file", p.uri+"/dists/"+p.suite+"/InRelease", file)
	cmd.Env = b.env()
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return os.ReadFile(file)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return nil, err
	}
	text := string(out)
	if strings.Contains(text, "404") || strings.Contains(text, "File not found") {
		return nil, errNoSuite
	}
	return nil, errors.New(lastError(text, err.Error()))
}

// lastError is the last line of apt's that says what was wrong.
func lastError(text, otherwise string) string {
	found := otherwise
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		for _, prefix := range []string{"E: ", "Err: ", "Err:1 "} {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				found = rest
			}
		}
	}
	return found
}

const aptHelper = "/usr/lib/apt/apt-helper"

// releaseDate is the Date field of a Release file.
func releaseDate(release []byte) (time.Time, bool) {
	lines := bufio.NewScanner(bytes.NewReader(release))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "Date:"); ok {
			value = strings.Replace(strings.TrimSpace(value), " UTC", " +0000", 1)
			t, err := time.Parse("Mon, 2 Jan 2006 15:04:05 -0700", value)
			return t, err == nil
		}
	}
	return time.Time{}, false
}
