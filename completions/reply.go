package completions

import (
	"slices"
	"strings"
)

// A Candidate is one way to go on with the word at the cursor.
type Candidate struct {
	Text string // the whole word, without quotes
	Part string // what bash inserts in place of Command.Cur
	Desc string // "" if there is none
	Dir  bool   // a folder, with a slash at its end: the word goes on
	Open bool   // no blank follows
	// Hidden is whether it is a file whose name starts with a dot, and nothing of
	// the name is there: bash has such names, zsh and fish do not.
	Hidden bool
}

// A Reply is what a shell is told.
type Reply struct {
	Candidates []Candidate
	Head       string // what all Texts begin with: Command.Head
	Filenames  bool   // they are names of files
	HostFiles  bool   // of the host's
	NoSort     bool   // their order means something
	// Native is whether the shell's own completion of file names is to answer: the
	// word has in it what only the shell can expand.
	Native bool
}

// NewReply makes of a guest's answer what shells want to know.
func NewReply(q *Request, a *Answer) *Reply {
	c := &q.Command
	r := &Reply{Head: c.Head, Filenames: a.Has("filenames"), HostFiles: q.HostFiles, NoSort: a.Has("nosort")}
	for _, part := range a.Candidates {
		text, open := part, a.Has("nospace")
		// A function that says nospace puts the blank there itself where one belongs.
		if trimmed := strings.TrimRight(text, " "); open && trimmed != text && trimmed != "" {
			text, open = trimmed, false
		}
		if !r.Filenames {
			if t, ok := UnquoteBash(text); ok {
				text = t
			}
		}
		dir := r.Filenames && strings.HasSuffix(text, "/")
		r.Candidates = append(r.Candidates, Candidate{Text: c.Head + text, Part: part, Dir: dir, Open: open || dir})
	}
	for _, f := range a.Files {
		cur, _ := parseAll(f.Cur)
		// A function may ask for the files of a part of the word: of x in -ox.
		before, ok := strings.CutSuffix(c.Cur, cur)
		if !ok {
			continue
		}
		r.addFiles(c, f, before, q.Dir, cur)
	}
	if len(r.Candidates) == 0 && (a.Has("default") || a.Has("bashdefault") || !a.Complete) {
		r.addFiles(c, Files{}, "", q.Dir, c.Cur)
	}
	if len(r.Candidates) == 0 && a.Has("dirnames") || a.Has("plusdirs") {
		r.addFiles(c, Files{Dirs: true}, "", q.Dir, c.Cur)
	}
	return r
}

// FilesReply is the reply where the guest is not asked, or does not answer.
func FilesReply(q *Request) *Reply {
	r := &Reply{Head: q.Command.Head, HostFiles: true}
	r.addFiles(&q.Command, Files{}, "", q.Dir, q.Command.Cur)
	return r
}

// addFiles adds host's files that continue cur, which comes after before in the
// word.
func (r *Reply) addFiles(c *Command, f Files, before, dir, cur string) {
	for _, name := range f.List(dir, cur) {
		r.Filenames = true
		isDir := strings.HasSuffix(name, "/")
		cand := Candidate{Text: c.Head + before + name, Part: before + strings.TrimSuffix(name, "/"), Dir: isDir, Open: isDir,
			Hidden: strings.HasPrefix(name[strings.LastIndexByte(cur, '/')+1:], ".") && (cur == "" || strings.HasSuffix(cur, "/"))}
		if !slices.ContainsFunc(r.Candidates, func(o Candidate) bool { return o.Text == cand.Text || o.Text+"/" == cand.Text }) {
			r.Candidates = append(r.Candidates, cand)
		}
	}
}

// Bash writes the reply for the function of complete.bash: options of compopt,
// then the candidates, each ended by a NUL byte. breaks are the COMP_WORDBREAKS
// of the shell that asks, which say what of the word it replaces.
func (r *Reply) Bash(c *Command, breaks string) string {
	var options []string
	if r.Native {
		options = append(options, "default", "bashdefault")
	}
	if r.Filenames {
		options = append(options, "filenames")
	}
	if r.NoSort {
		options = append(options, "nosort")
	}
	host, _ := cutHead(c.typed, breaks)
	var b strings.Builder
	open := len(r.Candidates) > 0
	for _, cand := range r.Candidates {
		// readline sees for itself what is a folder of the host's.
		open = open && cand.Open && (!cand.Dir || !r.HostFiles) || open && strings.HasSuffix(cand.Part, " ")
		part := cand.Part
		if more, ok := strings.CutPrefix(c.Head, host); ok {
			part = more + part
		} else if less, ok := strings.CutPrefix(host, c.Head); ok {
			part = strings.TrimPrefix(part, less)
		}
		b.WriteString(part + "\x00")
	}
	// A blank that a function wrote itself needs the option too; where some
	// candidates want one and others don't, they have theirs.
	if open || slices.ContainsFunc(r.Candidates, func(c Candidate) bool { return strings.HasSuffix(c.Part, " ") && !r.Filenames }) {
		options = append(options, "nospace")
	}
	return strings.Join(options, " ") + "\x00" + b.String()
}

// Zsh writes the reply for the function of complete.zsh, in fields each ended by
// a NUL byte: the words native and nosort where they hold, the head, and for each
// candidate a letter (f file, d folder, o no blank follows, w word) with its text,
// and its description.
func (r *Reply) Zsh() string {
	var words []string
	if r.Native {
		words = append(words, "native")
	}
	if r.NoSort {
		words = append(words, "nosort")
	}
	var b strings.Builder
	b.WriteString(strings.Join(words, " ") + "\x00" + r.Head + "\x00")
	for _, c := range r.Candidates {
		if c.Hidden {
			continue
		}
		kind, text := "w", c.Text
		switch {
		case c.Dir:
			kind, text = "d", strings.TrimSuffix(text, "/")
		case c.Open:
			kind = "o"
		case r.Filenames:
			kind = "f"
		}
		b.WriteString(kind + text + "\x00" + c.Desc + "\x00")
	}
	return b.String()
}

// Lines writes the reply as fish and PowerShell read it: a candidate a line, and
// its description after a tab. Texts that have either in them can't be said so.
func (r *Reply) Lines() string {
	var b strings.Builder
	for _, c := range r.Candidates {
		if strings.ContainsAny(c.Text, "\n\t\r\x00") || c.Text == "" || c.Hidden {
			continue
		}
		b.WriteString(c.Text)
		if c.Desc != "" {
			b.WriteString("\t" + strings.Join(strings.Fields(c.Desc), " "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
