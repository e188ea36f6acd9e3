//! The ledger: what a successor on probation has done with each connection
//! that was handed over to it.
//!
//! It is one file in memory that both processes have open, a byte a
//! connection. The successor writes, and the predecessor reads when the
//! successor is lost: what the successor has left clean goes on being served,
//! and a request that it may have read is never answered by a second process.
//!
//! The file outlives whoever wrote it, so the ledger is right also after a
//! `SIGKILL`. It is written with a system call rather than through shared
//! memory, which takes `unsafe`; that costs half a microsecond, twice a
//! request, for as long as a probation lasts.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{pread, pwrite, retry_on_intr};

/// What a successor has done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trace {
    /// It has read nothing and sent nothing.
    Untouched = 0,
    /// A request may have been read that is not answered yet.
    InUse = 1,
    /// Every request that was read has been answered.
    Clean = 2,
    /// It has closed the connection.
    Closed = 3,
}

/// How many slots are made at a time: a page of memory.
const PAGE: usize = 4096;

/// The predecessor's end.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: OwnedFd,
    /// How many slots there are.
    slots: usize,
}

impl Ledger {
    /// Makes an empty one.
    pub(crate) fn create() -> io::Result<Self> {
        let file = memfd_create("heirloom ledger", MemfdFlags::CLOEXEC)?;
        let mut ledger = Ledger { file, slots: 0 };
        ledger.reserve(PAGE)?;
        Ok(ledger)
    }

    /// Makes at least `count` slots, so that the successor never writes in
    /// vain for want of memory.
    pub(crate) fn reserve(&mut self, count: usize) -> io::Result<()> {
        while self.slots < count {
            let written = pwrite(
                &self.file,
                &[Trace::Untouched as u8; PAGE],
                self.slots as u64,
            )?;
            self.slots += written;
        }
        Ok(())
    }

    /// The traces of the first `count` slots. What cannot be read or
    /// understood counts as being in use, for that is taken back by nobody.
    pub(crate) fn read(&self, count: usize) -> Vec<Trace> {
        let mut bytes = vec![Trace::InUse as u8; count];
        let mut filled = 0;
        while filled < count {
            let rest = &mut bytes[filled..];
            match retry_on_intr(|| pread(&self.file, &mut *rest, filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => {
                    log::error!("the ledger of the handoff cannot be read: {error}");
                    return vec![Trace::InUse; count];
                }
            }
        }
        let trace = |byte| match byte {
            0 => Trace::Untouched,
            2 => Trace::Clean,
            3 => Trace::Closed,
            _ => Trace::InUse,
        };
        bytes.into_iter().map(trace).collect()
    }
}

impl AsFd for Ledger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The successor's end.
#[derive(Debug)]
pub(crate) struct Notes {
    /// `None` once nobody is going to read them.
    file: RefCell<Option<OwnedFd>>,
}

impl Notes {
    pub(crate) fn new(file: OwnedFd) -> Rc<Self> {
        Rc::new(Notes {
            file: RefCell::new(Some(file)),
        })
    }

    /// The predecessor takes nothing back any more.
    pub(crate) fn retire(&self) {
        self.file.take();
    }

    /// The place of one connection.
    pub(crate) fn slot(self: &Rc<Self>, number: u32) -> Slot {
        Slot {
            notes: Rc::clone(self),
            number,
            noted: Cell::new(Trace::Untouched),
        }
    }
}

/// A connection's place in the ledger; dropping it notes that the connection
/// is closed.
#[derive(Debug)]
pub(crate) struct Slot {
    notes: Rc<Notes>,
    number: u32,
    noted: Cell<Trace>,
}

impl Slot {
    /// Notes what is about to be done, or has been done.
    pub(crate) fn note(&self, trace: Trace) {
        if self.noted.replace(trace) == trace {
            return;
        }
        let mut file = self.notes.file.borrow_mut();
        let Some(open) = file.as_ref() else { return };
        let written = retry_on_intr(|| pwrite(open, &[trace as u8], u64::from(self.number)));
        if let Err(error) = written {
            // The memory is there already, so this should not happen. If it
            // does, nothing that is in the ledger can be relied on.
            log::error!("the ledger of the handoff cannot be written: {error}");
            if let Err(error) = rustix::fs::ftruncate(open, 0) {
                log::error!("the ledger of the handoff cannot be emptied: {error}");
            }
            *file = None;
        }
    }

    /// Whether nothing has been noted yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.noted.get() == Trace::Untouched
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.note(Trace::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ends() -> (Ledger, Rc<Notes>) {
        let ledger = Ledger::create().unwrap();
        let theirs = ledger.as_fd().try_clone_to_owned().unwrap();
        (ledger, Notes::new(theirs))
    }

    #[test]
    fn what_is_noted_is_read() {
        let (ledger, notes) = both_ends();
        let slots: Vec<Slot> = (0..4).map(|number| notes.slot(number)).collect();
        slots[1].note(Trace::InUse);
        slots[2].note(Trace::InUse);
        slots[2].note(Trace::Clean);
        let mut slots = slots.into_iter();
        let kept: Vec<Slot> = slots.by_ref().take(3).collect();
        drop(slots);
        assert_eq!(
            ledger.read(6),
            [
                Trace::Untouched,
                Trace::InUse,
                Trace::Clean,
                Trace::Closed,
                Trace::Untouched,
                Trace::Untouched,
            ]
        );
        drop(kept);
        assert_eq!(ledger.read(1), [Trace::Closed]);
    }

    #[test]
    fn a_slot_that_is_not_there_is_taken_for_one_in_use() {
        let (mut ledger, _notes) = both_ends();
        assert_eq!(
            ledger.read(PAGE + 1)[PAGE - 1..],
            [Trace::Untouched, Trace::InUse]
        );
        ledger.reserve(PAGE + 1).unwrap();
        assert_eq!(ledger.read(PAGE + 1)[PAGE], Trace::Untouched);
        rustix::fs::ftruncate(&ledger, 0).unwrap();
        assert_eq!(ledger.read(1), [Trace::InUse]);
    }

    #[test]
    fn nothing_is_noted_once_nobody_reads_it() {
        let (ledger, notes) = both_ends();
        let slot = notes.slot(0);
        slot.note(Trace::InUse);
        notes.retire();
        slot.note(Trace::Clean);
        drop(slot);
        assert_eq!(ledger.read(1), [Trace::InUse]);
    }
}
