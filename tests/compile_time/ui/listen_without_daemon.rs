use unbroken::daemon;

mod sync {
    use unbroken::daemon;

    #[daemon(listen(http = "0.0.0.0:80"))]
    fn main() {}
}

#[daemon(listen(http = "0.0.0.0:80"))]
async fn main() {}
