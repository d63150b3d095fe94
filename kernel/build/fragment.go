package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/stilehq/stile/kernel"
)

// line is one line of a fragment: a symbol, its value, and why.
type line struct {
	symbol string // with CONFIG_
	value  string // y, n, a number or a quoted string
	where  string // file:line
}

// setting matches what a fragment may say of a symbol. There is no m: stile's
// kernels have no modules.
var setting = regexp.MustCompile(`^(CONFIG_[A-Za-z0-9_]+)=(y|n|-?[0-9]+|0x[0-9a-fA-F]+|"[^"]*")$`)

// parseFragment parses a fragment. Every setting must say why, on its line.
func parseFragment(name, text string) ([]line, error) {
	var lines []line
	n := 0
	for raw := range strings.Lines(text) {
		n++
		where := fmt.Sprintf("%s:%d", name, n)
		said, why := kernel.CutComment(raw)
		if said == "" {
			continue
		}
		m := setting.FindStringSubmatch(said)
		if m == nil {
			return nil, fmt.Errorf("%s: %q is not CONFIG_NAME=value (y, n, a number or a string)", where, said)
		}
		if why == "" {
			return nil, fmt.Errorf("%s: %s has no reason: put one behind a # on the line", where, m[1])
		}
		lines = append(lines, line{symbol: m[1], value: m[2], where: where})
	}
	return lines, nil
}

// checkTwice finds symbols that stand twice, with one value or two.
func checkTwice(lines []line) error {
	var errs []error
	first := make(map[string]line)
	for _, l := range lines {
		f, ok := first[l.symbol]
		switch {
		case !ok:
			first[l.symbol] = l
		case f.value == l.value:
			errs = append(errs, fmt.Errorf("%s: %s stands already in %s", l.where, l.symbol, f.where))
		default:
			errs = append(errs, fmt.Errorf("%s: %s=%s, but %s in %s", l.where, l.symbol, l.value, f.value, f.where))
		}
	}
	return errors.Join(errs...)
}

// dotConfig is the line as the kernel's .config has it.
func (l line) dotConfig() string {
	if l.value == "n" {
		return "# " + l.symbol + " is not set"
	}
	return l.symbol + "=" + l.value
}

func dotConfig(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.dotConfig())
		b.WriteByte('\n')
	}
	return b.String()
}

// checkSurvived finds lines that are not in the final .config as they stand:
// because a dependency is missing, another symbol selects the opposite, or
// there is no such symbol. A symbol set to n must be offered and refused: if
// it can't be chosen anyway, or is misspelt, the line does nothing.
func checkSurvived(lines []line, final string) error {
	have := make(map[string]string) // symbol to its line
	for l := range strings.Lines(final) {
		l = strings.TrimSuffix(l, "\n")
		if symbol, ok := strings.CutSuffix(strings.TrimPrefix(l, "# "), " is not set"); ok {
			have[symbol] = l
		} else if symbol, _, ok := strings.Cut(l, "="); ok {
			have[symbol] = l
		}
	}
	var errs []error
	for _, l := range lines {
		got, ok := have[l.symbol]
		switch {
		case ok && got == l.dotConfig():
		case ok:
			errs = append(errs, fmt.Errorf("%s: %s=%s became %q", l.where, l.symbol, l.value, got))
		case l.value == "n":
			errs = append(errs, fmt.Errorf("%s: %s=n does nothing: there is no such choice in this configuration", l.where, l.symbol))
		default:
			errs = append(errs, fmt.Errorf("%s: %s=%s is lost: no such symbol, or something that it depends on is not set", l.where, l.symbol, l.value))
		}
	}
	return errors.Join(errs...)
}
