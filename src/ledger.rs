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

use rustix::fs::{FileType, MemfdFlags, OFlags, fcntl_getfl, fstat, memfd_create};
use rustix::io::{pread, pwrite, retry_on_intr};

/// What a successor has done with a connection.
///
/// None of them is 0: that is what a file is full of where nobody has written,
/// as behind an end that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trace {
    /// It has read nothing and sent nothing.
    Untouched = 1,
    /// A request may have been read that is not answered yet.
    InUse = 2,
    /// Every request that was read has been answered.
    Clean = 3,
    /// It has closed the connection.
    Closed = 4,
}

impl From<u8> for Trace {
    /// What cannot be understood counts as being in use, for that is taken back
    /// by nobody.
    fn from(byte: u8) -> Self {
        match byte {
            1 => Trace::Untouched,
            3 => Trace::Clean,
            4 => Trace::Closed,
            _ => Trace::InUse,
        }
    }
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

    /// The traces of the first `count` slots. What cannot be read counts as
    /// being in use, too.
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
        bytes.into_iter().map(Trace::from).collect()
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
    /// Takes a ledger over.
    ///
    /// # Errors
    ///
    /// If it is none. Without one that can be written, a predecessor would
    /// serve again what is being served here.
    pub(crate) fn open(file: OwnedFd) -> io::Result<Rc<Self>> {
        let is_file = FileType::from_raw_mode(fstat(&file)?.st_mode).is_file();
        let is_writable = fcntl_getfl(&file)? & OFlags::RWMODE == OFlags::RDWR;
        if !is_file || !is_writable {
            let problem = "it is not a file that can be written";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(Rc::new(Notes {
            file: RefCell::new(Some(file)),
        }))
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
    use std::os::fd::AsRawFd as _;

    fn both_ends() -> (Ledger, Rc<Notes>) {
        let ledger = Ledger::create().unwrap();
        let theirs = ledger.as_fd().try_clone_to_owned().unwrap();
        (ledger, Notes::open(theirs).unwrap())
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
    }

    #[test]
    fn a_ledger_that_was_emptied_says_nothing_even_when_it_grows_again() {
        let (mut ledger, _notes) = both_ends();
        rustix::fs::ftruncate(&ledger, 0).unwrap();
        assert_eq!(ledger.read(1), [Trace::InUse]);
        // As for a batch that is sent later.
        ledger.reserve(PAGE + 1).unwrap();
        assert_eq!(ledger.read(PAGE)[..], [Trace::InUse; PAGE]);
    }

    #[test]
    fn a_trace_is_read_as_it_was_written() {
        let traces = [Trace::Untouched, Trace::InUse, Trace::Clean, Trace::Closed];
        for trace in traces {
            assert_eq!(Trace::from(trace as u8), trace);
            assert_ne!(trace as u8, 0);
        }
    }

    #[test]
    fn what_cannot_be_written_is_no_ledger() {
        let (ledger, _notes) = both_ends();
        let path = format!("/proc/self/fd/{}", ledger.file.as_raw_fd());
        let read_only = std::fs::File::open(path).unwrap();
        assert!(Notes::open(read_only.into()).is_err());
        let (_, pipe) = io::pipe().unwrap();
        assert!(Notes::open(pipe.into()).is_err());
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
