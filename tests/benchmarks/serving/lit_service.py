"""LitServe's no-op, run in its own environment by `python lit_service.py PORT`."""

import sys

import litserve
from fastapi import Response
from painting import paint


class Painter(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["seed"]

    def predict(self, seeds):
        return [paint(seed) for seed in seeds] if isinstance(seeds, list) else paint(seeds)

    def batch(self, inputs):
        return inputs

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return Response(output, media_type="image/png")


if __name__ == "__main__":
    api = Painter(max_batch_size=64, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, track_requests=False)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning")
