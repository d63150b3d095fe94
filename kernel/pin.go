package kernel

import (
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
)

// Pin says which Linux is built, and where its source may come from.
type Pin struct {
	Version string
	Sources []Source // tried in order
}

// Source is one place of the kernel's source and the hash of what lies there.
type Source struct {
	Kind   string // "deb" or "tar"
	Name   string // of a deb SUITE/PACKAGE=VERSION, of a tar its file name
	SHA256 string // in lower-case hexadecimal
}

// Deb splits the name of a source of kind deb.
func (s Source) Deb() (suite, pkg, version string, err error) {
	suite, rest, ok := strings.Cut(s.Name, "/")
	if ok {
		pkg, version, ok = strings.Cut(rest, "=")
	}
	if !ok || suite == "" || pkg == "" || version == "" || strings.Contains(rest, "/") {
		return "", "", "", fmt.Errorf("source %s is not SUITE/PACKAGE=VERSION", s.Name)
	}
	return suite, pkg, version, nil
}

// ReadPin returns the pin that this program was built with.
func ReadPin() (Pin, error) {
	text, err := source.ReadFile("pin")
	if err != nil {
		return Pin{}, fmt.Errorf("read pin: %w", err)
	}
	return ParsePin(string(text))
}

// mustPin is ReadPin for callers that can do nothing about a broken pin: the
// pin is embedded, and a test parses it.
var mustPin = sync.OnceValue(func() Pin {
	pin, err := ReadPin()
	if err != nil {
		panic(err)
	}
	return pin
})

// ParsePin parses the text of a pin file.
func ParsePin(text string) (Pin, error) {
	var pin Pin
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _ := CutComment(line)
		if line == "" {
			continue
		}
		if err := pin.add(strings.Fields(line)); err != nil {
			return Pin{}, fmt.Errorf("pin:%d: %w", n, err)
		}
	}
	switch {
	case pin.Version == "":
		return Pin{}, fmt.Errorf("pin: no version")
	case len(pin.Sources) == 0:
		return Pin{}, fmt.Errorf("pin: no source")
	}
	return pin, nil
}

// add takes one line's words.
func (p *Pin) add(words []string) error {
	switch {
	case words[0] == "version" && len(words) == 2:
		if p.Version != "" {
			return fmt.Errorf("version stands twice")
		}
		// It becomes part of a folder's name.
		if strings.Trim(words[1], "0123456789.") != "" {
			return fmt.Errorf("version %q is not digits and dots", words[1])
		}
		p.Version = words[1]
	case words[0] == "source" && len(words) == 4:
		src := Source{Kind: words[1], Name: words[2], SHA256: words[3]}
		if err := src.check(); err != nil {
			return err
		}
		for _, other := range p.Sources {
			if other.SHA256 == src.SHA256 {
				return fmt.Errorf("hash of %s stands twice", src.Name)
			}
		}
		p.Sources = append(p.Sources, src)
	default:
		return fmt.Errorf("%q is neither \"version V\" nor \"source KIND NAME SHA256\"", strings.Join(words, " "))
	}
	return nil
}

func (s Source) check() error {
	sum, err := hex.DecodeString(s.SHA256)
	if err != nil || len(sum) != 32 || strings.ToLower(s.SHA256) != s.SHA256 {
		return fmt.Errorf("%q is not a sha256 in lower-case hexadecimal", s.SHA256)
	}
	switch s.Kind {
	case "deb":
		_, _, _, err := s.Deb()
		return err
	case "tar":
		if strings.Contains(s.Name, "/") {
			return fmt.Errorf("source %s is not a file name", s.Name)
		}
		return nil
	}
	return fmt.Errorf("source kind %q is neither deb nor tar", s.Kind)
}
