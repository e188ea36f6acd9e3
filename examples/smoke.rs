use heirloom::*;
struct L; impl log::Log for L { fn enabled(&self,_:&log::Metadata<'_>)->bool{true} fn log(&self,r:&log::Record<'_>){ eprintln!("[{} {}] {}", std::process::id(), r.level(), r.args()) } fn flush(&self){} }
fn main() -> Result<()> {
 log::set_logger(&L).unwrap(); log::set_max_level(log::LevelFilter::Info);
 let mut s = Server::new(|_r| async { Ok(Response::from("x")) }).pid_file("/tmp/smoke.pid").on_transition(|t| eprintln!("[{}] {t} {:?}", std::process::id(), t.listeners()));
 for a in std::env::args().skip(1) { s = s.listen(a); }
 s.run()
}
