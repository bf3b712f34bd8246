"""The base of every error that a user can cause."""


class UserError(ValueError):
    """What a user can cause and mend. The message is one line: "subject: detail; remedy".

    Args:
      detail: what was expected, and what was found.
      remedy: what to do about it.
      subject: the file, folder or setting that it is about.
    """

    def __init__(self, detail: str, remedy: str = "", subject: object = ""):
        self.detail = detail
        self.remedy = remedy
        self.subject = str(subject)
        before = f"{subject}: " if self.subject else ""
        after = f"; {remedy}" if remedy else ""
        super().__init__(f"{before}{detail}{after}")

    def __reduce__(self) -> tuple:
        return type(self), (self.detail, self.remedy, self.subject)
