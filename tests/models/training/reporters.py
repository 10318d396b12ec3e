"""Reporters for runs in tests."""


class Silent:
    """Keeps figures; asks to stop once `stop_at` steps were reported."""

    def __init__(self, stop_at=None):
        self.figures, self.samples, self.stages, self.notes, self.step, self.stop_at = {}, [], {}, [], 0, stop_at

    def progress(self, done, total, stage):
        self.stages.setdefault(stage, []).append((done, total))
        if stage == "training":
            self.step = done

    def metrics(self, step, values):
        self.figures[step] = values

    def sample(self, step, images):
        self.samples.append(images)

    def note(self, step, text):
        self.notes.append((step, text))

    def should_stop(self):
        return self.stop_at is not None and self.step >= self.stop_at
