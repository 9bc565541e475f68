//! Where a WebSocket's frames begin and end, as its server writes them (RFC 6455, 5.2): a close frame of ours
//! may stand between two of them, and nowhere else.

/// A close frame that says 1001: the server goes away.
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// Follows what is written on a connection from the response that turns it into a WebSocket. What is left of the
/// response before that may come first.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// How much of the line that begins the response head was seen.
    begin: usize,
    /// How much of the blank line that ends it.
    head: usize,
    header: [u8; 14],
    have: usize,
    payload: u64,
    /// The server has closed by itself.
    closed: bool,
}

impl Frames {
    /// These bytes were written.
    pub(super) fn wrote(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.begin < BEGIN.len() {
                self.begin = more_of(BEGIN, self.begin, first);
                bytes = rest;
            } else if self.head < BLANK.len() {
                self.head = more_of(BLANK, self.head, first);
                bytes = rest;
            } else if self.payload > 0 {
                let skipped = bytes.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                self.payload -= skipped as u64;
                bytes = &bytes[skipped..];
            } else {
                self.header[self.have] = first;
                self.have += 1;
                bytes = rest;
                self.end_of_header();
            }
        }
    }

    /// Whether a frame may begin here.
    pub(super) fn is_between(&self) -> bool {
        self.head == BLANK.len() && self.have == 0 && self.payload == 0
    }

    /// Whether the server has sent a close frame itself.
    pub(super) fn is_closed(&self) -> bool {
        self.closed && self.is_between()
    }

    fn end_of_header(&mut self) {
        if self.have < 2 {
            return;
        }
        let (long, masked) = (self.header[1] & 0x7f, self.header[1] & 0x80 != 0);
        let extended = match long {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.have < 2 + extended + if masked { 4 } else { 0 } {
            return;
        }
        let length = self.header[2..2 + extended].iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        self.payload = if extended == 0 { u64::from(long) } else { length };
        self.closed |= self.header[0] & 0x0f == 0x8;
        self.have = 0;
    }
}

const BEGIN: &[u8] = b"HTTP/1.1 101";
const BLANK: &[u8] = b"\r\n\r\n";

/// How much of `wanted` was seen, after one more byte. Enough for texts whose beginning comes again in them as
/// their first byte alone.
fn more_of(wanted: &[u8], seen: usize, byte: u8) -> usize {
    if byte == wanted[seen] { seen + 1 } else { usize::from(byte == wanted[0]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    /// The places at which a frame may begin, by writing one byte at a time.
    fn between(bytes: &[u8]) -> Vec<usize> {
        let mut frames = Frames::default();
        let step = |(at, byte): (usize, &u8)| {
            frames.wrote(std::slice::from_ref(byte));
            frames.is_between().then_some(at + 1)
        };
        bytes.iter().enumerate().filter_map(step).collect()
    }

    #[test]
    fn a_frame_may_begin_after_the_head_and_after_each_frame() {
        let short = [0x81, 2, b'h', b'i'];
        let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let longer = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65536]].concat();
        let empty = [0x89, 0];
        let all = [HEAD, &short, &long, &longer, &empty].concat();
        let mut ends = vec![HEAD.len()];
        for frame in [&short[..], &long, &longer, &empty] {
            ends.push(ends.last().unwrap() + frame.len());
        }
        assert_eq!(between(&all), ends);
        let mut at_once = Frames::default();
        at_once.wrote(&all);
        assert!(at_once.is_between() && !at_once.is_closed());
        at_once.wrote(&GOING_AWAY);
        assert!(at_once.is_closed());
    }

    #[test]
    fn a_blank_line_is_found_wherever_its_beginning_repeats() {
        let ends = |rest: &[u8]| between(&[b"HTTP/1.1 101 ", rest].concat());
        assert_eq!(ends(b"a\r\r\n\r\n"), [13 + 6]);
        assert_eq!(ends(b"a\r\n\r\r\n\r\n"), [13 + 8]);
        assert_eq!(ends(b"a\r\nb\r\n\r\n"), [13 + 8]);
    }

    #[test]
    fn the_rest_of_the_response_before_is_passed_over() {
        let before = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nHHTTP/";
        assert_eq!(between(&[before, HEAD].concat()), [before.len() + HEAD.len()]);
    }

    #[test]
    fn a_mask_that_no_server_should_use_is_counted_all_the_same() {
        assert_eq!(between(&[HEAD, &[0x81, 0x81, 1, 2, 3, 4, b'x']].concat()), [HEAD.len(), HEAD.len() + 7]);
    }
}
