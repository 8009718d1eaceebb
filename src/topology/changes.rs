//! Changes of a mask, packed: gaps between flat indices, seven bits a byte.

/// The entries in which two masks of a layer differ, by flat index, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Connections of the first mask that the second does not have.
    pub dropped: Vec<u32>,
    /// Connections of the second mask that the first does not have.
    pub grown: Vec<u32>,
}

impl Changes {
    /// Compares two masks of one length; an entry is a connection if it is not 0.
    pub fn between(before: &[u8], after: &[u8]) -> Self {
        /// Masks are compared this many entries at a time: most do not differ.
        const BLOCK: usize = 32;
        let mut changes = Changes::default();
        for (block, (old, new)) in before.chunks(BLOCK).zip(after.chunks(BLOCK)).enumerate() {
            if old == new {
                continue;
            }
            for (i, (&old, &new)) in old.iter().zip(new).enumerate() {
                let index = (block * BLOCK + i) as u32;
                match (old != 0, new != 0) {
                    (true, false) => changes.dropped.push(index),
                    (false, true) => changes.grown.push(index),
                    (true, true) | (false, false) => {}
                }
            }
        }
        changes
    }

    /// Number of connections that moved.
    pub fn moved(&self) -> usize {
        self.dropped.len() + self.grown.len()
    }

    /// Applies the changes to a mask. The message says what does not fit.
    pub(super) fn apply(&self, mask: &mut [u8]) -> Result<(), String> {
        for (indices, old, what) in [(&self.dropped, 1, "drops"), (&self.grown, 0, "grows")] {
            for &index in indices {
                match mask.get_mut(index as usize) {
                    Some(entry) if *entry == old => *entry = 1 - old,
                    Some(_) if old == 1 => return Err(format!("{what} weight {index}, which is no connection")),
                    Some(_) => return Err(format!("{what} weight {index}, which is a connection already")),
                    None => return Err(format!("{what} weight {index} of a layer of {}", mask.len())),
                }
            }
        }
        Ok(())
    }

    /// Appends both counts, then the gaps of the dropped and of the grown entries.
    pub(super) fn pack(&self, out: &mut Vec<u8>) {
        let lists = [&self.dropped, &self.grown];
        lists.iter().for_each(|list| put(out, list.len() as u32));
        for list in lists {
            let mut next = 0;
            for &index in list {
                put(out, index - next);
                next = index + 1;
            }
        }
    }

    /// Reads the changes of a layer of `weights` weights from the front of `bytes`. `None` if they are cut or do not fit.
    pub(super) fn unpack(bytes: &mut &[u8], weights: usize) -> Option<Self> {
        let counts = [take(bytes)?, take(bytes)?];
        let mut lists = counts.map(|count| {
            // A count is untrusted; every entry takes a byte.
            Vec::with_capacity((count as usize).min(bytes.len()))
        });
        for (list, count) in lists.iter_mut().zip(counts) {
            let mut next = 0u64;
            for _ in 0..count {
                let index = next + u64::from(take(bytes)?);
                if index >= weights as u64 {
                    return None;
                }
                list.push(index as u32);
                next = index + 1;
            }
        }
        let [dropped, grown] = lists;
        Some(Changes { dropped, grown })
    }
}

/// Appends a number, seven bits a byte, low bits first; the high bit marks that another byte follows.
fn put(out: &mut Vec<u8>, mut number: u32) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number of [`put`] from the front of `bytes`.
fn take(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return u32::try_from(number).ok();
        }
    }
    None
}
