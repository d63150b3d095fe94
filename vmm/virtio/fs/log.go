package fs

import (
	"log"
	"strings"
	"sync"
	"time"
)

// A limitedLog passes a few lines a second on. A guest can cause a complaint
// with each request.
type limitedLog struct {
	to *log.Logger // nil discards

	mu      sync.Mutex
	since   time.Time
	lines   int
	dropped int
}

const (
	logLines  = 5 // in logPeriod
	logPeriod = time.Second
	logLength = 512
)

// Write takes one line.
func (l *limitedLog) Write(p []byte) (int, error) {
	if l.to == nil {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.since) > logPeriod {
		if l.dropped > 0 {
			l.to.Printf("virtio-fs: %d more complaints", l.dropped)
		}
		l.since, l.lines, l.dropped = now, 0, 0
	}
	if l.lines++; l.lines > logLines {
		l.dropped++
		return len(p), nil
	}
	line := strings.TrimRight(string(p[:min(len(p), logLength)]), "\n")
	l.to.Printf("virtio-fs: %s", line)
	return len(p), nil
}
