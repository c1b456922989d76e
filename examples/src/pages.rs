//! The programs in `docs/`, as doctests. Those of the README are doctests of the facade.

macro_rules! pages {
    ($($name:ident: $file:literal,)*) => {$(
        #[doc = include_str!(concat!("../../docs/", $file))]
        mod $name {}
    )*};
}

pages! {
    coming_from_go: "coming-from-go.md",
    doctor: "doctor.md",
    faq: "faq.md",
    getting_started: "getting-started.md",
    fencing: "fencing.md",
    glossary: "glossary.md",
    guide: "guide.md",
    handlers: "handlers.md",
    lock_backend: "lock-backend.md",
    metrics: "metrics.md",
    operations: "operations.md",
    protocol: "protocol.md",
    scaling: "scaling.md",
    settings: "settings.md",
    testing: "testing.md",
    wire_format: "wire-format.md",
}
