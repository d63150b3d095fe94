package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stilehq/stile/kernel"
)

// debianKeyring verifies all of Debian's suites, the newer ones too.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// fetchDeb downloads a source package from the mirrors that this machine's apt
// uses, from a suite that it may not use, into the cache. It does so with an
// apt configuration of its own beside the machine's: nothing of the machine's
// apt changes, and it takes no root.
func (b *build) fetchDeb(ctx context.Context, src kernel.Source) (string, error) {
	suite, pkg, version, err := src.Deb()
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", fmt.Errorf("%s: no apt-get here", src.Name)
	}
	targets, err := aptTargets(ctx)
	if err != nil {
		return "", err
	}
	mirrors := debianMirrors(targets)
	if len(mirrors) == 0 {
		return "", fmt.Errorf("%s: apt has no Debian mirror here", src.Name)
	}
	var errs []error
	for _, uri := range mirrors {
		deb, err := b.fetchFrom(ctx, uri, suite, pkg, version)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", src.Name, err))
			continue
		}
		if err := checkHash(deb, src.SHA256); err != nil {
			return "", err
		}
		path := filepath.Join(b.sources, src.SHA256)
		return path, os.Rename(deb, path)
	}
	return "", errors.Join(errs...)
}

// fetchFrom downloads the package from one mirror and returns its file.
func (b *build) fetchFrom(ctx context.Context, uri, suite, pkg, version string) (string, error) {
	dir := filepath.Join(b.work, "apt")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "deb"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return "", err
		}
	}
	signed := ""
	if _, err := os.Stat(debianKeyring); err == nil {
		signed = "[signed-by=" + debianKeyring + "] "
	}
	files := map[string]string{
		"sources.list": fmt.Sprintf("deb %s%s %s main\n", signed, uri, suite),
		"apt.conf":     aptConf(dir),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{{"update"}, {"download", pkg + "=" + version}} {
		cmd := command(ctx, "apt-get", append([]string{"-q", "-c", filepath.Join(dir, "apt.conf")}, args...)...)
		cmd.Dir = filepath.Join(dir, "deb")
		if err := b.ui.run(cmd); err != nil {
			return "", err
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "deb", "*.deb"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("apt-get download left %d files", len(found))
	}
	return found[0], nil
}

// aptConf overrides what of the machine's configuration would touch its state.
// Proxies and the like stay as they are.
func aptConf(dir string) string {
	return strings.ReplaceAll(`Dir::Etc::SourceList "DIR/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "DIR/lists";
Dir::Cache "DIR/cache";
# The folders are the caller's: apt's own user could not read them.
APT::Sandbox::User "";
# Hooks of the machine clean up folders that are not ours.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
`, "DIR", dir)
}

// aptTarget is one index that the machine's apt fetches.
type aptTarget struct {
	origin, label string // empty before the first apt-get update
	release       string // the suite as sources.list says it
	uri           string
}

func aptTargets(ctx context.Context) ([]aptTarget, error) {
	const format = "$(CREATED_BY)|$(ORIGIN)|$(LABEL)|$(RELEASE)|$(REPO_URI)"
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", format).Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt for its mirrors: %w", err)
	}
	return parseTargets(string(out)), nil
}

func parseTargets(out string) []aptTarget {
	var targets []aptTarget
	for l := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(l), "|")
		if len(f) != 5 || f[0] != "Packages" {
			continue
		}
		for i := range f { // a value that apt does not know stays as it was asked for
			if strings.HasPrefix(f[i], "$(") {
				f[i] = ""
			}
		}
		targets = append(targets, aptTarget{origin: f[1], label: f[2], release: f[3], uri: f[4]})
	}
	return targets
}

// debianMirrors returns the mirrors that may have a Debian suite, each once.
// Before the machine's first apt-get update nothing says whose they are: then
// all count but those of security suites.
func debianMirrors(targets []aptTarget) []string {
	var uris []string
	seen := make(map[string]bool)
	for _, t := range targets {
		known := t.origin != "" || t.label != ""
		debian := t.origin == "Debian" && t.label == "Debian"
		if known && !debian || strings.Contains(t.release, "-security") || t.uri == "" || seen[t.uri] {
			continue
		}
		seen[t.uri] = true
		uris = append(uris, t.uri)
	}
	return uris
}
