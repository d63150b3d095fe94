package wire

// Host commands go the other way: a guest process, the relay of one host command,
// connects to HostCommandPort of CID 2 and sends Hello, with a session number that
// it has drawn by lot, and Run; a data stream for each attached entry of its table,
// and TerminalStream if it has a terminal, follow in any order.
//
//	guest → host        host → guest
//	Hello, Run          Error         it never started; the end
//	Signal, Resume      Started
//	WinSize, Ask        Stopped, Exit
//
// The streams are those of a guest's command, but that an end of file counts at once
// and that the guest sends terminal input when there is some, in both directions as
// bare bytes. The end of the control stream before Exit means that the guest's
// process is gone: the host's is ended then.
//
// None of it comes from guestinit. Whatever process of the guest connects may ask,
// whose user is of no interest: who may have what run is the host's to decide
// (package machine/policy).
const HostCommandPort = 1026

// MaxHostDescriptor is the largest descriptor number that a host command gets.
const MaxHostDescriptor = 255

// MaxHello bounds a Hello on HostCommandPort, so that a stream that says nothing
// more costs the host no memory.
const MaxHello = 256

// StubMagic starts the file that stands for a host command in the guest: the
// command's name and a newline follow. Its NUL keeps shells from taking the file for
// a script.
const StubMagic = "\x7fstile-host\x00\n"
