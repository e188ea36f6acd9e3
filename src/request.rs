//! STUB
/// stub
#[derive(Debug)] pub struct Request {}
