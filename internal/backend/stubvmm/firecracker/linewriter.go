package firecracker

// lineWriter is std::io::LineWriter over a file, with its buffer of 1024 bytes: what does not fit goes out first, and a
// newline sends everything. What could not be written stays, and stands before whatever comes next.
type lineWriter struct {
	out    func([]byte) (int, error) // one write(2)
	buffer []byte
}

const lineBuffer = 1024

func newLineWriter(out func([]byte) (int, error)) *lineWriter {
	return &lineWriter{out: out, buffer: make([]byte, 0, lineBuffer)}
}

// write takes a piece without a newline.
func (w *lineWriter) write(piece string) error {
	if n := len(w.buffer); n > 0 && w.buffer[n-1] == '\n' { // a line that is whole and did not get out
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(piece) > lineBuffer-len(w.buffer) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(piece) >= lineBuffer {
		_, err := w.out([]byte(piece))
		return err
	}
	w.buffer = append(w.buffer, piece...)
	return nil
}

// newline ends the line.
func (w *lineWriter) newline() error {
	if len(w.buffer) == lineBuffer {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.buffer = append(w.buffer, '\n')
	return w.flush()
}

func (w *lineWriter) flush() error {
	for len(w.buffer) > 0 {
		n, err := w.out(w.buffer)
		if n > 0 {
			w.buffer = w.buffer[:copy(w.buffer, w.buffer[n:])]
		}
		if err != nil {
			return err
		}
	}
	return nil
}
