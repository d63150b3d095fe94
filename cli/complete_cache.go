package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"

	"github.com/stilehq/stile/completions"
	"github.com/stilehq/stile/distro"
)

// A completionCache remembers the subcommands and options of a distro's commands,
// for when its machine does not run. Each file is of one command, and of one
// version of it: what was learned of another is dropped.
type completionCache struct {
	dir   string
	known map[string]bool // what learn has asked already: commands change seldom
}

// A remembered file.
type remembered struct {
	Version string
	// Answers are by the words before the cursor and what is there of the word:
	// nothing, "-" or "--".
	Answers map[string]*completions.Answer
}

// Limits of what is remembered of one command.
const (
	maxContexts = 64
	maxWords    = 3 // the command, a subcommand and one of its own
)

// cacheContext is the key of a request, "" if its answers are of no use later: words
// that are no subcommands may be anything, and options may have arguments. start is what
// the word begins with, as far as it counts.
func cacheContext(c *completions.Command) (key, start string) {
	if c.Head != "" || len(c.Words) > maxWords+1 {
		return "", ""
	}
	for _, w := range c.Words[1:c.Index] {
		if w == "" || strings.IndexFunc(w, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}) >= 0 || w[0] == '-' {
			return "", ""
		}
	}
	switch {
	case strings.HasPrefix(c.Cur, "--"):
		start = "--"
	case strings.HasPrefix(c.Cur, "-"):
		start = "-"
	}
	return strings.Join(c.Words[1:c.Index], " ") + "\n" + start, start
}

func (c *completionCache) path(command string) string {
	sum := sha256.Sum256([]byte(command))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:8]))
}

func (c *completionCache) read(command string) *remembered {
	data, err := os.ReadFile(c.path(command))
	var r remembered
	if err != nil || gob.NewDecoder(bytes.NewReader(data)).Decode(&r) != nil || r.Answers == nil {
		return &remembered{Answers: map[string]*completions.Answer{}}
	}
	return &r
}

// find is what is remembered for a request, nil if nothing is.
func (c *completionCache) find(q *completions.Request) *completions.Answer {
	key, _ := cacheContext(&q.Command)
	if key == "" {
		return nil
	}
	a := c.read(q.Command.Name).Answers[key]
	if a == nil {
		return nil
	}
	// It was learned for the word's start.
	fits := &completions.Answer{Options: a.Options, Complete: true}
	for _, candidate := range a.Candidates {
		if strings.HasPrefix(candidate, q.Command.Cur) {
			fits.Candidates = append(fits.Candidates, candidate)
		}
	}
	if len(fits.Candidates) == 0 {
		return nil
	}
	return fits
}

// learn remembers the subcommands of the command that was asked for, and all that
// begins as the request's word does, if those are not known yet.
func (c *completionCache) learn(r *completions.Resident, q *completions.Request, a *completions.Answer) {
	if !a.Complete {
		return
	}
	c.ask(r, q.Command.Name, nil, "")
	if key, start := cacheContext(&q.Command); key != "" && len(a.Candidates) > 0 {
		c.ask(r, q.Command.Name, q.Command.Words[1:q.Command.Index], start)
	}
}

// ask asks for what can follow the words, which need no quotes, and begins with
// start.
func (c *completionCache) ask(r *completions.Resident, name string, words []string, start string) {
	line := []completions.Word{{Text: name}}
	for _, w := range words {
		line = append(line, completions.Word{Text: w})
	}
	line = append(line, completions.Word{Text: start})
	q := &completions.Request{Dir: "/", Command: completions.NewCommand(line), HostFiles: true, Version: true}
	key, _ := cacheContext(&q.Command)
	if key == "" || c.known[name+"\x00"+key] {
		return
	}
	if c.known == nil {
		c.known = map[string]bool{}
	}
	c.known[name+"\x00"+key] = true
	answer, err := r.Ask(q)
	if err != nil || !answer.Complete || answer.Version == "" {
		return
	}
	known := c.read(name)
	if known.Version != answer.Version || len(known.Answers) >= maxContexts {
		known = &remembered{Version: answer.Version, Answers: map[string]*completions.Answer{}}
	}
	answer.Files = nil
	known.Answers[key] = answer
	var b bytes.Buffer
	if gob.NewEncoder(&b).Encode(known) != nil {
		return
	}
	// A cache that can't be written is one that is not there.
	if distro.Ensure(c.dir) == nil && os.WriteFile(c.path(name)+".new", b.Bytes(), 0o600) == nil {
		os.Rename(c.path(name)+".new", c.path(name))
	}
}
