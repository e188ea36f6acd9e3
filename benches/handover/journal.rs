//! What the service has noted, held against what its clients have met.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::Fallible;
use crate::service::NOTE_BYTES;
use crate::traffic::Record;

/// What the comparison has shown.
#[derive(Default)]
pub(crate) struct Audit {
    /// How many requests have been handled.
    pub(crate) handled: u64,
    /// Of a request that had been handled before, by the same process or
    /// another.
    pub(crate) twice: u64,
    /// After one that its client had asked later.
    pub(crate) out_of_order: u64,
    /// But the client was answered by another process.
    pub(crate) by_another: u64,
    /// But the client was not answered: by which process, by the numbers of
    /// the client and of its request.
    pub(crate) in_vain: HashMap<(usize, usize), u32>,
    /// Answered without having been handled.
    pub(crate) unhandled: u64,
}

impl Audit {
    /// Reads what all generations have noted, in the order in which they did.
    pub(crate) fn of(journal: &Path, records: &[Record]) -> Fallible<Self> {
        let mut audit = Audit::default();
        let mut handled: Vec<Vec<bool>> = records
            .iter()
            .map(|record| vec![false; record.answers.len()])
            .collect();
        let mut last = vec![0; records.len()];
        let notes = fs::read(journal)?;
        let notes = notes.chunks(NOTE_BYTES);
        for note in notes {
            let mut numbers = note.chunks_exact(4).map(|number| {
                number
                    .iter()
                    .rev()
                    .fold(0, |all, byte| all << 8 | u32::from(*byte))
            });
            let (Some(pid), Some(generation), Some(client), Some(number)) = (
                numbers.next(),
                numbers.next(),
                numbers.next(),
                numbers.next(),
            ) else {
                return Err("the journal ends inside a note".into());
            };
            let (client, number) = (client as usize, number as usize);
            let unknown = || format!("nobody has asked request {number} of client {client}");
            let answer = records.get(client).and_then(|it| it.answers.get(number));
            let answer = answer.ok_or_else(unknown)?;
            let handled = handled
                .get_mut(client)
                .and_then(|it| it.get_mut(number))
                .ok_or_else(unknown)?;
            let last = last.get_mut(client).ok_or_else(unknown)?;
            audit.handled += 1;
            if std::mem::replace(handled, true) {
                audit.twice += 1;
                continue;
            }
            audit.out_of_order += u64::from(number < *last);
            *last = number;
            match answer {
                Some(answer) => {
                    let is_by =
                        answer.by.pid == pid && answer.by.generation == u64::from(generation);
                    audit.by_another += u64::from(!is_by);
                }
                None => drop(audit.in_vain.insert((client, number), pid)),
            }
        }
        audit.unhandled = records
            .iter()
            .zip(&handled)
            .flat_map(|(record, handled)| record.answers.iter().zip(handled))
            .filter(|(answer, handled)| answer.is_some() && !**handled)
            .count() as u64;
        Ok(audit)
    }
}

/// A file for a journal, in memory where that is possible: otherwise a service
/// that writes it waits for the disk, with all of its clients, when somebody
/// else keeps that busy.
pub(crate) fn file() -> io::Result<NamedTempFile> {
    NamedTempFile::new_in("/dev/shm").or_else(|_| NamedTempFile::new())
}
