//! Where the frames of a WebSocket begin and end (RFC 6455 §5.2), on their way to the client.
//!
//! We relay WebSockets as bytes. Only when one is cut off do we say a word ourselves, and that may stand between two
//! frames but not inside one.

/// The frame that ends a WebSocket because its server goes away: Close, two bytes, status 1001 (RFC 6455 §7.4.1).
pub const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

/// The longest head of a frame: opcode, length, eight bytes more of it, mask.
const HEAD: usize = 14;

/// Opcode of a Close frame.
const CLOSE: u8 = 0x8;

/// Follows the bytes of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// The head of the frame that has begun, as far as it was seen.
    head: [u8; HEAD],
    seen: usize,
    /// Bytes left of its payload.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Looks at the next bytes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= n as u64;
                bytes = &bytes[n..];
                continue;
            }
            self.head[self.seen] = byte;
            self.seen += 1;
            bytes = rest;
            if self.seen == self.head_length() {
                self.closed |= self.head[0] & 0x0f == CLOSE;
                self.left = self.payload();
                self.seen = 0;
            }
        }
    }

    /// Whether a frame of ours may follow: the last one has ended, and wasn't the Close frame.
    pub fn may_add(&self) -> bool {
        self.seen == 0 && self.left == 0 && !self.closed
    }

    fn head_length(&self) -> usize {
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + mask
            + match self.head[1] & 0x7f {
                _ if self.seen < 2 => HEAD, // The length isn't there yet, so there must be more.
                126 => 2,
                127 => 8,
                _ => 0,
            }
    }

    fn payload(&self) -> u64 {
        let long = |n: usize| self.head[2..2 + n].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        match self.head[1] & 0x7f {
            126 => long(2),
            127 => long(8),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([0; 4]);
        }
        // 0x88 would be a Close frame's first byte.
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    #[test]
    fn nothing_is_added_inside_a_frame_or_behind_a_close() {
        let mut frames = Frames::default();
        let text = frame(1, 3, false);
        frames.pass(&text[..4]);
        let inside = frames.may_add();
        frames.pass(&text[4..]);
        let between = frames.may_add();
        frames.pass(&frame(8, 2, false));

        assert!(!inside && between && !frames.may_add());
    }

    proptest! {
        #[test]
        fn only_the_borders_between_frames_count_wherever_the_bytes_are_cut(
            lengths in prop::collection::vec((prop::sample::select(vec![0_usize, 1, 125, 126, 400, 65_535, 65_536]), any::<bool>()), 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut wire = Vec::new();
            let mut borders = vec![0];
            for (length, masked) in lengths {
                wire.extend(frame(2, length, masked));
                borders.push(wire.len());
            }
            let cut = cut.index(wire.len() + 1);
            let mut frames = Frames::default();

            frames.pass(&wire[..cut]);
            let at_cut = frames.may_add();
            frames.pass(&wire[cut..]);

            prop_assert_eq!(at_cut, borders.contains(&cut));
            prop_assert!(frames.may_add());
        }
    }
}
