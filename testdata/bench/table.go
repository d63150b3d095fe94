package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"
)

// A result is one line of the table. Value and peer have the same unit.
type result struct {
	what        string
	value, peer float64 // 0: not measured
	unit        unit
	better      direction
	aim         float64 // ratio in stile's favour that is hoped for; 0: none
}

type direction int

const (
	lower direction = iota
	higher
)

// A unit formats a value.
type unit func(float64) string

func milliseconds(v float64) string  { return fmt.Sprintf("%.1f ms", v) }
func megabytesPerS(v float64) string { return fmt.Sprintf("%.1f MB/s", v) }
func megabytes(v float64) string     { return fmt.Sprintf("%.1f MB", v) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ratio is how many times better stile is.
func (r result) ratio() float64 {
	if r.better == higher {
		return r.value / r.peer
	}
	return r.peer / r.value
}

const tableFormat = "%-34s %14s %14s %8s  %s\n"

func header(w io.Writer) {
	fmt.Fprintf(w, tableFormat, "", "stile", "by hand", "ratio", "aim")
}

func (r result) print(w io.Writer) {
	cell := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return r.unit(v)
	}
	ratio, aim := "", ""
	if r.value != 0 && r.peer != 0 {
		ratio = fmt.Sprintf("%.2f", r.ratio())
		if r.aim != 0 {
			aim = fmt.Sprintf("%g: reached", r.aim)
			if r.ratio() < r.aim {
				aim = fmt.Sprintf("%g: missed", r.aim)
			}
		}
	}
	fmt.Fprintf(w, tableFormat, r.what, cell(r.value), cell(r.peer), ratio, aim)
}

// quantile is the smallest of the values that a part q of them, 0 to 1, does
// not exceed.
func quantile[T cmp.Ordered](values []T, q float64) T {
	sorted := slices.Sorted(slices.Values(values))
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }
