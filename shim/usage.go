package main

import "github.com/stilehq/stile/interop/wire"

// usage is what a command has used, in one line.
func usage(u *wire.Usage) string {
	if u == nil {
		return "stile: rusage: the machine does not say: it was started by an older stile\n"
	}
	rss := " KiB"
	if u.AtMost {
		rss += " or less"
	}
	return "stile: rusage: user " + seconds(u.User) + " s, system " + seconds(u.System) + " s, memory " + decimal(u.MaxRSS) + rss +
		", faults " + decimal(u.MinorFaults) + " minor " + decimal(u.MajorFaults) +
		" major, blocks " + decimal(u.BlocksIn) + " in " + decimal(u.BlocksOut) +
		" out, switches " + decimal(u.Voluntary) + " voluntary " + decimal(u.Involuntary) + " involuntary\n"
}

// seconds is a time in µs with three digits behind the point, as bash's time has.
func seconds(micros uint64) string {
	millis := decimal(micros/1000%1000 + 1000)
	return decimal(micros/1_000_000) + "." + millis[1:]
}
