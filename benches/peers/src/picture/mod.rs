//! The pictures: latencies over the time of a restart, and how many requests
//! fail.

mod failures;
mod latency;

pub use self::failures::draw as failures;
pub use self::latency::draw as latency;

/// For light and dark, on whatever is behind.
const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#1f2328}\
.small{font-size:10px;fill:#59636e}\
.name{font-weight:600}\
.bad{fill:#cf222e}\
.grid{stroke:#d1d9e0;fill:none}\
.now{stroke:#59636e;stroke-dasharray:3 3;fill:none}\
.area{fill:#0969da;fill-opacity:.25}\
.line{stroke:#0969da;stroke-width:1.5;fill:none}\
.mark{stroke:#cf222e;stroke-width:1.3;fill:none}\
.bar{fill:#cf222e}\
@media(prefers-color-scheme:dark){\
text{fill:#e6edf3}.small{fill:#9198a1}.bad{fill:#ff7b72}.grid{stroke:#3d444d}.now{stroke:#9198a1}\
.area{fill:#58a6ff}.line{stroke:#58a6ff}.mark{stroke:#ff7b72}.bar{fill:#ff7b72}}";
