//! HTTP/1.1, as RFC 9110 and RFC 9112 have it, from a real process.

use crate::conformance;
use crate::kit::{Address, Config, Service};

#[test]
fn the_example_holds_every_case_of_the_conformance_table() {
    let service = Service::start(Config::new());
    let address = service.address();
    let Address::Tcp(address) = address else {
        panic!("the first listener is not TCP but {address}");
    };
    conformance::check(address);
    service.assert_undisturbed();
}
