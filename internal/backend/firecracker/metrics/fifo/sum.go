package fifo

// DriveBytes is what was read and written on all drives so far, and of how many that is known. It allocates nothing.
func (c *Collector) DriveBytes() (read, written uint64, drives int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.decoder.DriveBytes()
}
