//! The code blocks of the README and of the book, compiled as doctests.

macro_rules! pages {
    ($($name:ident $path:literal)*) => { $(
        #[doc = include_str!($path)]
        mod $name {}
    )* };
}

pages! {
    readme "../../README.md"
    introduction "../../book/src/introduction.md"
    quick_start "../../book/src/quick-start.md"
    writing_a_main "../../book/src/main.md"
    converting "../../book/src/converting.md"
    other_servers "../../book/src/servers.md"
    testing "../../book/src/testing.md"
    restart "../../book/src/restart.md"
    clients "../../book/src/clients.md"
    crashes "../../book/src/crashes.md"
    configuration "../../book/src/configuration.md"
    privileges "../../book/src/privileges.md"
    verbs "../../book/src/verbs.md"
    coming_from "../../book/src/coming-from.md"
    logging "../../book/src/logging.md"
    systemd "../../book/src/systemd.md"
    containers "../../book/src/containers.md"
    scale "../../book/src/scale.md"
    troubleshooting "../../book/src/troubleshooting.md"
    security "../../book/src/security.md"
}
