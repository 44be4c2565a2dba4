"""LoRA on conversations with liblisa: lora_liblisa.py MODEL DATA OUT STEPS"""

import sys

import liblisa
from liblisa.data import Formatter, pad, read_records
from watch import Watch

directory, data, out, n_steps = *sys.argv[1:4], int(sys.argv[4])
form = Formatter.open(directory)
examples = [form.example(record.content) for record in read_records(data)]
batches = [pad(examples[4 * step : 4 * step + 4]) for step in range(n_steps)]

model = liblisa.Model.open(liblisa.Context(), directory)
liblisa.Adapter.create(model, rank=8, alpha=16, targets="all-linear", seed=1).attach()
batch = liblisa.Batch(model, 4, max(len(b.tokens[0]) for b in batches))
optimizer = liblisa.Optimizer(model, lr=2e-4)

watch = Watch()
for step, b in enumerate(batches):
    batch.set(b.tokens, b.labels, documents=b.documents)
    stats = liblisa.train_step(model, None, optimizer, batch, step)
    watch.step(stats.loss)
model.adapter.save(out)
watch.close()
