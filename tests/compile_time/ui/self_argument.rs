use unbroken::daemon;

#[daemon]
fn main(self) {}
