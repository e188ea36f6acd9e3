//! What all connections of a server share.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_types::Response;

use super::head::Locations;
use crate::limits::Limits;
use crate::parcel::{Parcel, Past};
use crate::reactor::{Reactor, Socket};
use crate::request::Request;
use crate::roster::Ticket;
use crate::status::Status;

/// How large a pooled buffer is.
const POOLED_BYTES: usize = 8 * 1024;

/// How many buffers the pool keeps.
const POOLED_BUFFERS: usize = 64;

/// Answers requests.
///
/// Implemented for every `Fn(Request) -> impl Future<Output =
/// http_types::Result<Response>>`. Neither the handler nor its future need be
/// `Send`: a server runs on one thread.
///
/// # What is sent
///
/// The status, headers and body of the response, framed by the connection,
/// which sets `Content-Length`, `Transfer-Encoding` and `Connection` itself
/// (RFC 9112 sections 6 and 9): a `Content-Length` of the handler counts only
/// where there is no body to measure, as in an answer to `HEAD`; of its
/// `Connection` only `close` counts. A missing `Date` is added. Trailers are
/// not sent. A body longer than announced is cut; after one that is shorter,
/// or fails, the connection is closed, which tells the client. A response that
/// cannot be sent (control characters in a header, an interim status, a `101`
/// without an upgrade that the client has offered) becomes a `500` and a
/// record in the log. A `2xx` to `CONNECT` without an upgrade becomes a `501`.
///
/// # Upgrades
///
/// A `101` for which
/// [`recv_upgrade`](http_types::Response::recv_upgrade) was called makes the
/// stream of the connection available there, once the response is sent. The
/// connection counts as in flight until that stream is dropped. Where there is
/// always something to read, or always room to write, others have their turn now
/// and then: a read or write is pending although it need not wait.
///
/// # Bodies
///
/// A request body that cannot be read to its end, because it is malformed, too
/// large, cut short, or late, is an error for whoever reads it. If the handler
/// then returns an error, or a response with the status 422 that http-types
/// gives to such errors, the client gets the status that fits: 400, 413 or
/// 408. A body is for the time of its request: read after the response has
/// been sent it is an error, too.
///
/// # Errors
///
/// An error becomes a response with the error's status where that is one of
/// the classes 4xx and 5xx, else with `500 Internal Server Error`. Its text
/// goes to the log, not to the client. A panic becomes a `500`, too.
///
/// # Examples
///
/// ```
/// use heirloom::{Handler, Request, Response};
///
/// fn echo() -> impl Handler {
///     |mut request: Request| async move {
///         let mut response = Response::new(200);
///         response.set_body(request.take_body());
///         Ok(response)
///     }
/// }
/// ```
pub trait Handler: 'static {
    /// Answers one request.
    fn call(&self, request: Request) -> impl Future<Output = http_types::Result<Response>>;
}

impl<F, Fut> Handler for F
where
    F: Fn(Request) -> Fut + 'static,
    Fut: Future<Output = http_types::Result<Response>> + 'static,
{
    fn call(&self, request: Request) -> impl Future<Output = http_types::Result<Response>> {
        self(request)
    }
}

/// The handler, its limits, and what connections lend each other.
pub(crate) struct Protocol<H> {
    pub(super) handler: H,
    pub(super) limits: Limits,
    pub(super) status: Status,
    pub(super) reactor: Arc<Reactor>,
    /// Memory that no connection needs at the moment.
    pool: RefCell<Vec<Vec<u8>>>,
    date: Date,
    pub(super) locations: Locations,
    /// Where connections go that leave.
    leave: Rc<dyn Fn(Parcel)>,
}

impl<H: Handler> Protocol<H> {
    pub(crate) fn new(handler: H, limits: Limits, status: Status, reactor: Arc<Reactor>) -> Self {
        Protocol {
            handler,
            limits,
            status,
            reactor,
            pool: RefCell::default(),
            date: Date::default(),
            locations: Locations::default(),
            leave: Rc::new(drop),
        }
    }

    /// Gives connections that leave to `leave`.
    pub(crate) fn leaving_to(mut self, leave: Rc<dyn Fn(Parcel)>) -> Self {
        self.leave = leave;
        self
    }
}

impl<H> Protocol<H> {
    /// Gives a connection away.
    pub(super) fn leave(&self, socket: Socket, ticket: Ticket, past: Past) {
        let peer = ticket.peer();
        match Parcel::take_off(socket, ticket, past) {
            Ok(parcel) => (self.leave)(parcel),
            Err(error) => {
                log::error!("could not take the connection of {peer} off the reactor: {error}");
            }
        }
    }

    pub(super) fn take_memory(&self) -> Vec<u8> {
        let pooled = self.pool.borrow_mut().pop();
        pooled.unwrap_or_else(|| vec![0; POOLED_BYTES])
    }

    pub(super) fn give_back(&self, memory: Vec<u8>) {
        let mut pool = self.pool.borrow_mut();
        if memory.len() == POOLED_BYTES && pool.len() < POOLED_BUFFERS {
            pool.push(memory);
        }
    }

    /// The value of the Date field at this moment.
    pub(super) fn date(&self) -> Rc<str> {
        self.date.at(SystemTime::now())
    }
}

/// The Date field, formatted once a second.
#[derive(Default)]
struct Date {
    second: Cell<u64>,
    value: RefCell<Option<Rc<str>>>,
}

impl Date {
    fn at(&self, time: SystemTime) -> Rc<str> {
        let second = time
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        let mut value = self.value.borrow_mut();
        if self.second.replace(second) != second {
            *value = None;
        }
        Rc::clone(value.get_or_insert_with(|| imf_fixdate(second).into()))
    }
}

/// RFC 9110 section 5.6.7, as in `Sun, 06 Nov 1994 08:49:37 GMT`.
fn imf_fixdate(seconds_since_epoch: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb",
    ];
    let (days, second) = (seconds_since_epoch / 86_400, seconds_since_epoch % 86_400);
    let weekday = WEEKDAYS[(days % 7) as usize];
    // Years that begin in March have their leap day at the end, and months
    // then follow a line of slope 153/5. 719,468 days lie between 1 March of
    // the year 0 and the epoch.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    format!(
        "{weekday}, {day:02} {month} {year:04} {:02}:{:02}:{:02} GMT",
        second / 3600,
        second / 60 % 60,
        second % 60,
        month = MONTHS[month as usize % 12],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_in_the_form_of_rfc_9110() {
        for (seconds, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_827_696, "Tue, 29 Feb 2000 12:34:56 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (1_709_251_200, "Fri, 01 Mar 2024 00:00:00 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(imf_fixdate(seconds), date);
        }
    }

    #[test]
    fn a_date_is_formatted_anew_when_the_second_has_changed() {
        let date = Date::default();
        let first = date.at(UNIX_EPOCH + Duration::from_millis(1999));
        assert_eq!(first, date.at(UNIX_EPOCH + Duration::from_millis(1001)));
        assert_ne!(first, date.at(UNIX_EPOCH + Duration::from_millis(2000)));
    }
}
